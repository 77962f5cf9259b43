"""Policies that act as the imitated decisions did on average."""

from __future__ import annotations

from torch import Tensor

from marl.algorithms.imitation.networks import AverageNetwork
from marl.policy import Decision, Policy
from marl.types import GroupStep


class AveragePolicy(Policy):
    """Samples from the average policy, or takes its likeliest action."""

    def __init__(self, network: AverageNetwork, *, greedy: bool) -> None:
        self._network = network
        self.num_uniforms = 0 if greedy else 1
        self.extras = {}

    def act(self, step: GroupStep, first: Tensor, state: Tensor | None, uniforms: Tensor | None) -> Decision:
        distribution = self._network.distribution(step.observations, step.action_masks)
        actions = distribution.mode() if uniforms is None else distribution.sample(uniforms)
        return Decision(actions=actions, extras={}, state=state)

    def probabilities(
        self, step: GroupStep, first: Tensor, state: Tensor | None, num_actions: int
    ) -> tuple[Tensor, Tensor | None]:
        if not self.num_uniforms:
            return super().probabilities(step, first, state, num_actions)
        return self._network.distribution(step.observations, step.action_masks).probs, state
