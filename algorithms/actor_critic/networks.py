"""Networks of one group: its actor, its critics, how much it explores, and its temperature."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from marl.algorithms.actor_critic.config import ActorCriticConfig
from marl.algorithms.actor_critic.critics import CriticNetwork
from marl.algorithms.actor_critic.exploration import Exploration
from marl.core import State
from marl.networks.torso import Head, Torso
from marl.specs import GroupSpec
from marl.states import unflatten_state


class ActorNetwork(nn.Module):
    """Observations to raw outputs, from which an algorithm makes actions."""

    def __init__(self, group: GroupSpec, outputs: int, config: ActorCriticConfig) -> None:
        super().__init__()
        self.torso = Torso(
            [group.observation],
            num_agents=group.size,
            hidden_sizes=config.hidden_sizes,
            activation=config.activation,
            layer_norm=config.hidden_layer_norm,
        )
        self.head = Head(self.torso.size, outputs, 0.01)

    def forward(self, observations: Tensor) -> Tensor:
        """(..., A, *) prepared observations to (..., A, outputs)."""
        outputs: Tensor = self.head(self.torso.features([observations]))
        return outputs


class Temperature(nn.Module):
    """Weight of a policy's entropy, by its logarithm."""

    def __init__(self, initial: float) -> None:
        super().__init__()
        self.log = nn.Parameter(torch.tensor(math.log(initial)))


@dataclass(slots=True)
class ActorCriticNetworks:
    """One group's actor and critics, and what belongs to them."""

    actor: ActorNetwork
    critics: CriticNetwork
    exploration: Exploration
    temperature: Temperature | None = None
    """Of algorithms that adapt the weight of entropy."""


Networks = dict[str, ActorCriticNetworks]
"""Each group's networks."""


def load_policy(networks: ActorCriticNetworks, state: State) -> None:
    """Restores a group's saved actor, and how much it explores."""
    saved = unflatten_state(state)
    networks.actor.load_state_dict(saved["actor"])
    networks.exploration.load_state_dict(saved["exploration"])
