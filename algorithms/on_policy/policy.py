"""The policy of on-policy algorithms: samples from the policy network, or takes its mode."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from marl.algorithms.on_policy.networks import PolicyValueNetworks
from marl.learning.compilation import TensorFunction, compiled_module
from marl.networks.action_heads import num_uniforms
from marl.networks.categorical import MaskedCategorical
from marl.networks.distributions import Distribution
from marl.policy import Decision, Policy
from marl.specs import ArraySpec, GroupSpec
from marl.types import GroupStep


class Sampling(nn.Module):
    """A step of a feed-forward policy: actions and their log-probabilities."""

    def __init__(self, networks: PolicyValueNetworks) -> None:
        super().__init__()
        self.actor = networks.actor
        self._reader = networks.observations

    def forward(self, observations: Tensor, uniforms: Tensor, *more: Tensor) -> tuple[Tensor, Tensor]:
        """Samples actions.

        Args:
            observations: (E, A, *) raw.
            uniforms: (E, A, numbers).
            more: mean and deviation of the observations where they have running moments, as numbers of a compiled
                function never change unless they are handed in; and (E, A, mask size) masks where there are any.

        Returns:
            Actions and their log-probabilities.
        """
        prepared, normalizer = self._reader.prepare(observations), self._reader.normalizer
        if normalizer is not None:
            prepared, more = normalizer.normalize_by(prepared, *more[:2]), more[2:]
        distribution = self.actor.distribution(self.actor.torso.features([prepared]), more[0] if more else None)
        actions = distribution.sample(uniforms)
        return actions, distribution.log_prob(actions)


class StochasticPolicy(Policy):
    """Samples from the policy network's distribution, or takes its mode.

    Args:
        group: whose policy.
        networks: of the group.
        greedy: take the mode.
        compile: sample through torch's compiler; for feed-forward networks.
    """

    def __init__(self, group: GroupSpec, networks: PolicyValueNetworks, *, greedy: bool, compile: bool = False) -> None:
        self._networks = networks
        self._group = group
        self.num_uniforms = 0 if greedy else num_uniforms(group.action)
        self.extras = {}
        if not greedy:
            self.extras = {"log_probs": ArraySpec(shape=())}
            if networks.actor.torso.gru is not None:
                self.extras["states"] = ArraySpec(shape=(networks.actor.torso.size,))
        dtype = group.observation.dtype
        self._dtype = dtype if dtype.is_floating_point else torch.get_default_dtype()
        self._sample: TensorFunction | None = None
        if compile and not greedy:
            self._sample = compiled_module(Sampling(networks), threads=1)

    def initial_state(self, num_envs: int) -> Tensor | None:
        torso = self._networks.actor.torso
        return None if torso.gru is None else torso.initial_state(num_envs, self._group.size)

    def act(self, step: GroupStep, first: Tensor, state: Tensor | None, uniforms: Tensor | None) -> Decision:
        if self._sample is not None and uniforms is not None:
            normalizer = self._networks.observations.normalizer
            moments = () if normalizer is None else normalizer.moments_as(self._dtype)
            masks = () if step.action_masks is None else (step.action_masks,)
            actions, log_probs = self._sample(step.observations, uniforms, *moments, *masks)
            return Decision(actions=actions, extras={"log_probs": log_probs}, state=None)
        before = state
        distribution, state = self._distribution(step, first, state)
        if uniforms is None:
            return Decision(actions=distribution.mode(), extras={}, state=state)
        actions = distribution.sample(uniforms)
        extras = {"log_probs": distribution.log_prob(actions)}
        if before is not None:
            extras["states"] = before
        return Decision(actions=actions, extras=extras, state=state)

    def probabilities(
        self, step: GroupStep, first: Tensor, state: Tensor | None, num_actions: int
    ) -> tuple[Tensor, Tensor | None]:
        if not self.num_uniforms:
            return super().probabilities(step, first, state, num_actions)
        distribution, state = self._distribution(step, first, state)
        assert isinstance(distribution, MaskedCategorical)
        return distribution.probs, state

    def _distribution(self, step: GroupStep, first: Tensor, state: Tensor | None) -> tuple[Distribution, Tensor | None]:
        actor = self._networks.actor
        features = actor.torso.features([self._networks.observations.read(step.observations)])
        if state is not None:
            state = features = actor.torso.step(features, state, first.unsqueeze(-1).expand(state.shape[:-1]))
        return actor.distribution(features, step.action_masks), state
