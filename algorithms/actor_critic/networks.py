"""Networks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from marl.algorithms.actor_critic.critics import CriticNetwork
from marl.algorithms.actor_critic.exploration import Exploration
from marl.algorithms.off_policy.builder import OffPolicyConfig
from marl.checkpoints.state import unflatten_state
from marl.core import State
from marl.networks.torso import Head, Torso
from marl.replay import ReplayConfig
from marl.specs import GroupSpec

_REPLAY: Final = ReplayConfig(samples_per_insert=10.24)
"""A batch of 1024 every 100 steps, as in the MADDPG paper."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorCriticConfig(OffPolicyConfig):
    """Settings of all off-policy actor-critic algorithms."""

    centralized_critic: bool = True
    """Whether critics read the global state and all agents' actions, or only what the agent itself sees and does."""
    team_reward: bool = False
    replay: ReplayConfig = _REPLAY
    discount: float = 0.95
    max_gradient_norm: float = 0.5
    actor_learning_rate: float = 1e-3
    """Adam's step size for actors."""
    critic_learning_rate: float = 1e-3
    """Adam's step size for critics."""
    num_critics: int = 1
    """Critics of each group; targets take the least of their values."""
    resample_other_actions: bool = False
    """Actors are improved against what the others' policies would do now, instead of what they did then."""
    random_warmup: bool = True
    """Whether actions are uniformly random until learning begins."""


class ActorNetwork(nn.Module):
    """Observations to raw outputs, from which an algorithm makes actions."""

    def __init__(self, group: GroupSpec, outputs: int, config: ActorCriticConfig) -> None:
        super().__init__()
        self.torso = Torso(
            [group.observation],
            num_agents=group.size,
            hidden_sizes=config.hidden_sizes,
            activation=config.activation,
            layer_norm=config.layer_norm,
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
class GroupNetworks:
    """What one group acts and learns with."""

    actor: ActorNetwork
    critics: CriticNetwork
    exploration: Exploration
    temperature: Temperature | None = None
    """Of algorithms that adapt the weight of entropy."""


Networks = dict[str, GroupNetworks]


def load_policy(group: GroupNetworks, state: State) -> None:
    """Puts a group's saved actor back, and how much it explores."""
    saved = unflatten_state(state)
    group.actor.load_state_dict(saved["actor"])
    group.exploration.load_state_dict(saved["exploration"])
