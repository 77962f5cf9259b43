"""MADDPG, IDDPG and MATD3: deterministic policies improved along their critics' gradients.

Lowe et al. (2017), "Multi-agent actor-critic for mixed cooperative-competitive environments". With
``centralized_critic=False`` each agent is a DDPG learner (Lillicrap et al. 2016) of its own, IDDPG. With two critics,
smoothed target actions and delayed actors it is MATD3 (Ackermann et al. 2019, after Fujimoto et al. 2018).
Discrete actions are differentiated by the straight-through Gumbel-softmax estimator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from marl.algorithms.actor_critic.batches import GroupBatch, JointBatch
from marl.algorithms.actor_critic.builder import ActorCriticBuilder
from marl.algorithms.actor_critic.config import ActorCriticConfig
from marl.algorithms.actor_critic.critics import CriticNetwork
from marl.algorithms.actor_critic.exploration import Exploration, NoiseKind, make_noise
from marl.algorithms.actor_critic.learner import ActorCriticLearner, Purpose
from marl.algorithms.actor_critic.networks import ActorCriticNetworks, ActorNetwork, Networks
from marl.algorithms.actor_critic.policy import ActorCriticPolicy
from marl.builders import RunContext
from marl.learning.config_checks import require_above, require_at_least, require_unit_interval
from marl.learning.schedules import LinearSchedule
from marl.networks.action_encodings import action_features
from marl.networks.action_heads import make_distribution, num_outputs, relaxed_sample
from marl.networks.gaussian import standard_normal
from marl.specs import ContinuousActions, EnvironmentSpec, GroupSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class MADDPGConfig(ActorCriticConfig):
    """Settings of MADDPG, IDDPG and MATD3; the defaults are the MADDPG paper's."""

    actor_learning_rate: float = 1e-2
    critic_learning_rate: float = 1e-2
    noise: NoiseKind = "gaussian"
    """Noise that is added to continuous actions while exploring."""
    exploration_noise: float = 0.1
    """Standard deviation of the exploration noise of a step, where actions fill [-1, 1]."""
    final_exploration_noise: float = 0.1
    """Standard deviation of the exploration noise once it is annealed."""
    noise_steps: int = 0
    """Environment steps over which it is annealed."""
    noise_theta: float = 0.15
    """How fast Ornstein-Uhlenbeck noise is forgotten."""
    target_noise: float = 0.0
    """Deviation of the noise on the targets' continuous actions; MATD3: 0.2."""
    target_noise_clip: float = 0.5
    """Where that noise is clipped."""
    policy_delay: int = 1
    """Updates of critics to one of actors and targets; MATD3: 2."""
    temperature: float = 1.0
    """Of the Gumbel-softmax relaxation of discrete actions."""
    output_penalty: float = 1e-3
    """Weight of the actors' mean squared outputs, which keeps them from saturating."""


class MADDPGPolicy(ActorCriticPolicy):
    """Takes the actor's continuous action with noise, or samples its discrete action; the mode where it is greedy."""

    _config: MADDPGConfig

    def __init__(self, group: GroupSpec, networks: ActorCriticNetworks, config: MADDPGConfig, *, greedy: bool) -> None:
        super().__init__(group, networks, config, greedy=greedy)
        self._noise = None
        if isinstance(group.action, ContinuousActions) and not greedy:
            self._noise = make_noise(config.noise, deviation=config.exploration_noise, theta=config.noise_theta)

    def initial_state(self, num_envs: int) -> Tensor | None:
        if self._noise is None:
            return None
        state = self._noise.initial_state(num_envs, self._group.size, self.num_uniforms)
        return None if state is None else state.to(self._networks.exploration.scale.device)

    def select(
        self, outputs: Tensor, masks: Tensor | None, first: Tensor, state: Tensor | None, uniforms: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        if isinstance(self._group.action, ContinuousActions):
            actions = torch.tanh(outputs)
            if self._noise is not None and uniforms is not None:
                noise, state = self._noise.next(standard_normal(uniforms), state, first)
                actions = (actions + self._networks.exploration.scale * noise).clamp(-1.0, 1.0)
            return actions, state
        distribution = make_distribution(self._group.action, outputs, masks)
        return distribution.mode() if uniforms is None else distribution.sample(uniforms), state


class MADDPGLearner(ActorCriticLearner[Tensor]):
    """Learns critics of the target actors' actions, and actors along the gradient of the first critic.

    Losses need the actors' raw outputs.
    """

    target_actors = True
    actor_metrics = ("samples", "actor_loss", "policy_value", "squared_outputs")
    _config: MADDPGConfig

    @property
    def actor_period(self) -> int:
        return self._config.policy_delay

    def noise_size(self, group: GroupSpec, purpose: Purpose) -> int:
        if isinstance(group.action, ContinuousActions) and (purpose == "current" or self._config.target_noise == 0.0):
            return 0
        return action_features(group.action)

    def exploration_scale(self) -> float:
        config = self._config
        if config.exploration_noise == 0.0:
            return 1.0
        schedule = LinearSchedule(
            start=config.exploration_noise, end=config.final_exploration_noise, steps=config.noise_steps
        )
        return schedule(self._context.counter.steps_since_began) / config.exploration_noise

    def act(
        self, name: str, actor: ActorNetwork, observations: Tensor, masks: Tensor | None, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        spec = self._spec.group(name).action
        outputs = actor(observations)
        if isinstance(spec, ContinuousActions):
            return torch.tanh(outputs), outputs
        return relaxed_sample(spec, outputs, masks, noise, temperature=self._config.temperature), outputs

    def next_actions(self, name: str, data: GroupBatch, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Selects the target actor's actions; continuous ones with ``target_noise`` (Fujimoto et al. 2018)."""
        actions, outputs = super().next_actions(name, data, noise)
        if isinstance(self._spec.group(name).action, ContinuousActions) and self._config.target_noise > 0.0:
            clip = self._config.target_noise_clip
            smoothing = (self._config.target_noise * standard_normal(noise)).clamp(-clip, clip)
            actions = (actions + smoothing).clamp(-1.0, 1.0)
        return actions, outputs

    def actor_loss(
        self, name: str, batch: JointBatch, actions: Tensor, others: Tensor, policy: Tensor
    ) -> tuple[Tensor, Sequence[Tensor]]:
        data = batch.groups[name]
        values = self._networks[name].critics(data.observations, actions, batch.state, others)[0]
        penalty = policy.square().mean(-1)
        value = (values * data.actor_weights).sum()
        squares = (penalty * data.actor_weights).sum()
        return self._config.output_penalty * squares - value, (value.detach(), squares.detach())


@dataclass(frozen=True, kw_only=True)
class MADDPG(ActorCriticBuilder):
    """Builds MADDPG, IDDPG or MATD3."""

    config: MADDPGConfig = MADDPGConfig()
    policy: ClassVar = MADDPGPolicy
    learner: ClassVar = MADDPGLearner

    def check(self, spec: EnvironmentSpec, context: RunContext) -> None:
        super().check(spec, context)
        require_at_least(1, self.config, "policy_delay")
        require_above(0, self.config, "temperature", "noise_theta")
        require_unit_interval(self.config, "noise_theta")
        numbers = ("exploration_noise", "final_exploration_noise", "noise_steps", "target_noise", "target_noise_clip")
        require_at_least(0, self.config, *numbers, "output_penalty")

    def is_stochastic(self, spec: EnvironmentSpec) -> bool:
        """Returns whether some actions are discrete: those are drawn, continuous ones only explored around."""
        return any(not isinstance(group.action, ContinuousActions) for group in spec.groups)

    def make_networks(self, spec: EnvironmentSpec) -> Networks:
        return {
            group.name: ActorCriticNetworks(
                ActorNetwork(group, num_outputs(group.action), self.config),
                CriticNetwork(group, spec, self.config),
                Exploration(),
            )
            for group in spec.groups
        }
