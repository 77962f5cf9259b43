"""MASAC and ISAC: stochastic policies that are paid for their entropy, with centralized critics or each agent's own.

Haarnoja et al. (2018), "Soft actor-critic algorithms and applications", for continuous actions, squashed Gaussians,
and the temperature; Christodoulou (2019), "Soft actor-critic for discrete action settings", for choices, over which
expectations are exact. Critics as in MADDPG (Lowe et al. 2017); with ``centralized_critic=False`` it is ISAC.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from marl.algorithms.actor_critic.batches import GroupBatch, JointBatch
from marl.algorithms.actor_critic.builder import ActorCriticBuilder
from marl.algorithms.actor_critic.exploration import Exploration
from marl.algorithms.actor_critic.learner import ActorCriticLearner, Purpose
from marl.algorithms.actor_critic.networks import ActorCriticConfig, ActorNetwork, GroupNetworks, Networks, Temperature
from marl.algorithms.actor_critic.policy import ActorCriticPolicy
from marl.builders import RunContext
from marl.errors import InputError
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
    """Wanted entropy of continuous actions, in nats a dimension, where actions fill [-1, 1]."""
    target_entropy_share: float = 0.3
    """Wanted entropy of choices, as a share of that of uniform legal choices."""


class MASACPolicy(ActorCriticPolicy):
    """Samples from the actor's distribution, or takes its mode."""

    def choose(
        self, outputs: Tensor, masks: Tensor | None, first: Tensor, state: Tensor | None, uniforms: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """See ActorCriticPolicy."""
        distribution = _distribution(self._group.action, outputs, masks)
        return distribution.mode() if uniforms is None else distribution.sample(uniforms), state


class MASACLearner(ActorCriticLearner):
    """Critics learn soft values, actors climb the least of the critics, temperatures hold the entropy."""

    actor_figures = ("samples", "actor_loss", "entropy", "temperature")
    _config: MASACConfig

    def noise_size(self, group: GroupSpec, purpose: Purpose) -> int:
        """See ActorCriticLearner."""
        return num_uniforms(group.action)

    def exploration_scale(self) -> float:
        """See ActorCriticLearner."""
        return 1.0

    def next_values(self, batch: JointBatch, noise: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """See ActorCriticLearner."""
        actions: dict[str, Tensor] = {}
        policies: dict[str, tuple[Distribution, Tensor]] = {}
        for name, data in batch.groups.items():
            outputs = self._networks[name].actor(data.next_observations)
            action, distribution, log_probs = self._act(name, outputs, data.next_masks, noise[name])
            actions[name] = action * data.next_active
            policies[name] = (distribution, log_probs)
        joint = self._joint.join(actions)
        values: dict[str, Tensor] = {}
        for name, (distribution, log_probs) in policies.items():
            least = self.target_values(name, batch, actions[name], self._joint.others(name, joint))
            bonus = -self._temperature(name)
            if isinstance(distribution, MaskedCategorical):
                values[name] = (distribution.probs * (least + bonus * distribution.log_probs)).sum(-1)
            else:
                values[name] = least + bonus * log_probs
        return values

    def predictions(self, name: str, batch: JointBatch, others: Tensor) -> Tensor:
        """See ActorCriticLearner."""
        data = batch.groups[name]
        values: Tensor = self._networks[name].critics(data.observations, data.actions, batch.state, others)
        if values.dim() == 4:
            # Of all alternatives, the one taken; the encoded action of agents that did not act is zero.
            values = (values * data.actions).sum(-1)
        return values

    def current_actions(self, name: str, data: GroupBatch, noise: Tensor) -> tuple[Tensor, tuple[Distribution, Tensor]]:
        """See ActorCriticLearner."""
        actions, distribution, log_probs = self._act(
            name, self._networks[name].actor(data.observations), data.masks, noise
        )
        return actions, (distribution, log_probs)

    def actor_loss(
        self, name: str, batch: JointBatch, actions: Tensor, others: Tensor, context: Any
    ) -> tuple[Tensor, Sequence[Tensor]]:
        """See ActorCriticLearner."""
        data, group = batch.groups[name], self._networks[name]
        distribution, log_probs = context
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
            excess = (entropy - self._wanted_entropy(name, data)).detach()
            loss = loss + (group.temperature.log * excess * data.actor_weights).sum()
        counted = (data.actor_weights > 0).to(loss.dtype)
        return loss, ((entropy.detach() * counted).sum(), temperature * counted.sum())

    def _temperature(self, name: str) -> Tensor:
        temperature = self._networks[name].temperature
        if temperature is None:
            return torch.tensor(self._config.initial_temperature, device=self._context.device)
        return temperature.log.detach().exp()

    def _wanted_entropy(self, name: str, data: GroupBatch) -> Tensor | float:
        """() or (B, A)."""
        spec = self._spec.group(name).action
        if isinstance(spec, ContinuousActions):
            return self._config.target_entropy * spec.size
        if data.masks is None:
            return self._config.target_entropy_share * math.log(spec.mask_size)
        return self._config.target_entropy_share * data.masks.sum(-1).clamp_min(1).log()

    def _act(
        self, name: str, outputs: Tensor, masks: Tensor | None, noise: Tensor
    ) -> tuple[Tensor, Distribution, Tensor]:
        """(B, A, features) sampled actions, their distribution, and their (B, A) log-probabilities."""
        spec = self._spec.group(name).action
        distribution = _distribution(spec, outputs, masks)
        actions, log_probs = distribution.sample_and_log_prob(noise)
        return encode_actions(spec, actions), distribution, log_probs


def _distribution(spec: ActionSpec, outputs: Tensor, masks: Tensor | None) -> Distribution:
    return make_distribution(spec, outputs, masks, squashed=isinstance(spec, ContinuousActions))


@dataclass(frozen=True, kw_only=True)
class MASAC(ActorCriticBuilder):
    """Builds MASAC, or with ``centralized_critic=False`` ISAC."""

    config: MASACConfig = MASACConfig()
    compile: bool = False
    """Whether updates run as kernels of torch's compiler; numbers agree up to rounding."""
    policy: ClassVar = MASACPolicy
    learner: ClassVar = MASACLearner

    def check(self, spec: EnvironmentSpec, context: RunContext) -> None:
        """See Builder."""
        super().check(spec, context)
        require_above(0, self.config, "initial_temperature")
        for group in spec.groups:
            if isinstance(group.action, MultiDiscreteActions):
                raise InputError(
                    f"{group.name} makes several choices at once, over which MASAC cannot take exact expectations; "
                    "use maddpg, mappo or ippo"
                )

    def make_networks(self, spec: EnvironmentSpec) -> Networks:
        """See Builder."""
        networks: Networks = {}
        for group in spec.groups:
            continuous = isinstance(group.action, ContinuousActions)
            networks[group.name] = GroupNetworks(
                ActorNetwork(group, num_outputs(group.action, state_dependent_std=True), self.config),
                self.make_critics(spec, group, reads_own_action=continuous),
                Exploration(),
            )
            if self.config.adapt_temperature:
                networks[group.name].temperature = Temperature(self.config.initial_temperature)
        return networks
