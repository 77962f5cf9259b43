"""MASAC and ISAC: entropy-regularised stochastic policies, with centralized critics or decentralized ones.

Haarnoja et al. (2018), "Soft actor-critic algorithms and applications", for continuous actions, squashed Gaussians,
and the temperature; Christodoulou (2019), "Soft actor-critic for discrete action settings", for discrete actions, over
which expectations are exact. Critics as in MADDPG (Lowe et al. 2017); with ``centralized_critic=False`` it is ISAC.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from marl.algorithms.actor_critic.batches import GroupBatch, JointBatch
from marl.algorithms.actor_critic.builder import ActorCriticBuilder
from marl.algorithms.actor_critic.config import ActorCriticConfig
from marl.algorithms.actor_critic.critics import CriticNetwork
from marl.algorithms.actor_critic.exploration import Exploration
from marl.algorithms.actor_critic.learner import ActorCriticLearner, Purpose
from marl.algorithms.actor_critic.networks import ActorCriticNetworks, ActorNetwork, Networks, Temperature
from marl.algorithms.actor_critic.policy import ActorCriticPolicy
from marl.builders import RunContext
from marl.errors import InputError
from marl.learning.absent_agents import without_absent, without_advantages
from marl.learning.config_checks import require_above
from marl.networks.action_encodings import encode_actions
from marl.networks.action_heads import make_distribution, num_outputs, num_uniforms
from marl.networks.categorical import MaskedCategorical
from marl.networks.distributions import Distribution
from marl.specs import ActionSpec, ContinuousActions, EnvironmentSpec, GroupSpec, MultiDiscreteActions


@dataclass(frozen=True, slots=True, kw_only=True)
class MASACConfig(ActorCriticConfig):
    """Settings of MASAC and ISAC."""

    num_critics: int = 2
    initial_temperature: float = 0.1
    """Weight of a policy's entropy in nats at first, alpha."""
    adapt_temperature: bool = True
    """Whether the weight is adapted, for each group, so that the entropy comes to its target."""
    target_entropy: float = -1.0
    """Target entropy of continuous actions, in nats a dimension, where actions fill [-1, 1]."""
    target_entropy_share: float = 0.3
    """Target entropy of discrete actions, as a share of that of uniform legal ones."""


class MASACPolicy(ActorCriticPolicy):
    """Samples from the actor's distribution, or takes its mode."""

    def select(
        self, outputs: Tensor, masks: Tensor | None, first: Tensor, state: Tensor | None, uniforms: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        distribution = _distribution(self._group.action, outputs, masks)
        return distribution.mode() if uniforms is None else distribution.sample(uniforms), state


class SampledPolicy(NamedTuple):
    """A distribution over actions, and how likely the sampled ones were."""

    distribution: Distribution
    log_probs: Tensor
    """(B, A)."""


class MASACLearner(ActorCriticLearner[SampledPolicy]):
    """Learns critics of soft values, actors along the gradient of the least critic, and temperatures."""

    actor_metrics = ("samples", "actor_loss", "entropy", "temperature")
    _config: MASACConfig

    def noise_size(self, group: GroupSpec, purpose: Purpose) -> int:
        return num_uniforms(group.action)

    def exploration_scale(self) -> float:
        return 1.0

    def act(
        self, name: str, actor: ActorNetwork, observations: Tensor, masks: Tensor | None, noise: Tensor
    ) -> tuple[Tensor, SampledPolicy]:
        spec = self._spec.group(name).action
        distribution = _distribution(spec, actor(observations), masks)
        actions, log_probs = distribution.sample_and_log_prob(noise)
        return encode_actions(spec, actions), SampledPolicy(distribution, log_probs)

    def next_values(self, name: str, data: GroupBatch, values: Tensor, policy: SampledPolicy) -> Tensor:
        """Adds the policy's entropy; of discrete actions exactly, and of continuous ones by the sample."""
        distribution, log_probs = policy
        entropy = -log_probs
        if isinstance(distribution, MaskedCategorical):
            least = without_advantages(values, data.next_present).amin(0)
            expected, entropy = (distribution.probs * least).sum(-1), distribution.entropy()
        else:
            expected = values.amin(0)
        return expected + self._temperature(name) * without_absent(entropy, data.next_present)

    def actor_loss(
        self, name: str, batch: JointBatch, actions: Tensor, others: Tensor, policy: SampledPolicy
    ) -> tuple[Tensor, Sequence[Tensor]]:
        data, group = batch.groups[name], self._networks[name]
        distribution, log_probs = policy
        temperature = self._temperature(name)
        values = group.critics(data.observations, actions, batch.state, others).amin(0)
        if isinstance(distribution, MaskedCategorical):
            entropy = distribution.entropy()
            losses = -(distribution.probs * values).sum(-1) - temperature * entropy
        else:
            entropy = -log_probs
            losses = -values - temperature * entropy
        loss = (losses * data.actor_weights).sum()
        if group.temperature is not None:
            excess = (entropy - self._target_entropy(name, data)).detach()
            loss = loss + (group.temperature.log * excess * data.actor_weights).sum()
        counted = (data.actor_weights > 0).to(loss.dtype)
        return loss, ((entropy.detach() * counted).sum(), temperature * counted.sum())

    def _temperature(self, name: str) -> Tensor:
        temperature = self._networks[name].temperature
        if temperature is None:
            return torch.tensor(self._config.initial_temperature, device=self._context.device)
        return temperature.log.detach().exp()

    def _target_entropy(self, name: str, data: GroupBatch) -> Tensor | float:
        """Target entropy in nats, () or (B, A)."""
        spec = self._spec.group(name).action
        if isinstance(spec, ContinuousActions):
            return self._config.target_entropy * spec.size
        if data.masks is None:
            return self._config.target_entropy_share * math.log(spec.mask_size)
        return self._config.target_entropy_share * data.masks.sum(-1).clamp_min(1).log()


def _distribution(spec: ActionSpec, outputs: Tensor, masks: Tensor | None) -> Distribution:
    return make_distribution(spec, outputs, masks, squashed=isinstance(spec, ContinuousActions))


@dataclass(frozen=True, kw_only=True)
class MASAC(ActorCriticBuilder):
    """Builds MASAC, or with ``centralized_critic=False`` ISAC."""

    config: MASACConfig = MASACConfig()
    policy: ClassVar = MASACPolicy
    learner: ClassVar = MASACLearner

    def check(self, spec: EnvironmentSpec, context: RunContext) -> None:
        super().check(spec, context)
        require_above(0, self.config, "initial_temperature")
        for group in spec.groups:
            if isinstance(group.action, MultiDiscreteActions):
                raise InputError(
                    f"{group.name} makes several choices at once, over which MASAC cannot take exact expectations; "
                    "use maddpg, mappo or ippo"
                )

    def make_networks(self, spec: EnvironmentSpec) -> Networks:
        networks: Networks = {}
        for group in spec.groups:
            continuous = isinstance(group.action, ContinuousActions)
            networks[group.name] = ActorCriticNetworks(
                ActorNetwork(group, num_outputs(group.action, state_dependent_std=True), self.config),
                CriticNetwork(group, spec, self.config, reads_own_action=continuous),
                Exploration(),
            )
            if self.config.adapt_temperature:
                networks[group.name].temperature = Temperature(self.config.initial_temperature)
        return networks
