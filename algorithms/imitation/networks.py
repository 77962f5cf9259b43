"""Networks that imitate the decisions of others."""

from __future__ import annotations

from torch import Tensor, nn

from marl.algorithms.imitation.config import ImitationConfig
from marl.networks.categorical import MaskedCategorical
from marl.networks.torso import Head, Torso, prepare_input
from marl.specs import DiscreteActions, GroupSpec


class AverageNetwork(nn.Module):
    """Observations of one group to logits of discrete actions."""

    def __init__(self, group: GroupSpec, config: ImitationConfig) -> None:
        super().__init__()
        assert isinstance(group.action, DiscreteActions)
        self._spec, self._convolutions = group.observation, config.convolutions
        self.torso = Torso(
            [group.observation],
            num_agents=group.size,
            hidden_sizes=config.hidden_sizes,
            activation=config.activation,
            layer_norm=False,
            convolutions=config.convolutions,
        )
        self.head = Head(self.torso.size, group.action.num_actions, 0.01)

    def distribution(self, observations: Tensor, masks: Tensor | None) -> MaskedCategorical:
        """(..., A, *) observations and (..., A, K) masks to a distribution over (..., A) actions."""
        prepared = prepare_input(self._spec, observations, normalize=False, convolutions=self._convolutions)
        return MaskedCategorical(self.head(self.torso.features([prepared])), masks)
