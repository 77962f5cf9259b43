"""Cloning."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from marl.networks.categorical import MaskedCategorical
from marl.networks.torso import Activation, Head, Torso, prepare_input
from marl.policy import Decision, Policy
from marl.specs import DiscreteActions, GroupSpec
from marl.types import GroupStep


class AverageNetwork(nn.Module):
    """Observations of one group to logits of actions."""

    def __init__(self, group: GroupSpec, *, hidden_sizes: Sequence[int], activation: Activation) -> None:
        super().__init__()
        assert isinstance(group.action, DiscreteActions)
        self._spec = group.observation
        self.torso = Torso(
            [group.observation],
            num_agents=group.size,
            hidden_sizes=hidden_sizes,
            activation=activation,
            layer_norm=False,
        )
        self.head = Head(self.torso.size, group.action.num_actions, 0.01)

    def distribution(self, observations: Tensor, masks: Tensor | None) -> MaskedCategorical:
        """(..., A, *) observations and (..., A, K) masks to a distribution over (..., A) actions."""
        prepared = prepare_input(self._spec, observations, normalize=False)
        return MaskedCategorical(self.head(self.torso.features([prepared])), masks)


class AveragePolicy(Policy):
    """Draws from the average policy, or takes its likeliest action."""

    def __init__(self, network: AverageNetwork, *, greedy: bool) -> None:
        self._network = network
        self.num_uniforms = 0 if greedy else 1
        self.extras = {}

    def act(self, step: GroupStep, first: Tensor, state: Tensor | None, uniforms: Tensor | None) -> Decision:
        """See Policy."""
        distribution = self._network.distribution(step.observations, step.action_masks)
        actions = distribution.mode() if uniforms is None else distribution.sample(uniforms)
        return Decision(actions=actions, extras={}, state=state)

    def probabilities(
        self, step: GroupStep, first: Tensor, state: Tensor | None, num_actions: int
    ) -> tuple[Tensor, Tensor | None]:
        """See Policy."""
        if not self.num_uniforms:
            return super().probabilities(step, first, state, num_actions)
        return self._network.distribution(step.observations, step.action_masks).probs, state
