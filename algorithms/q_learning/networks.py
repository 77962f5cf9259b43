"""Networks of action values: one for each group of agents, and all groups' with their mixer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from marl.algorithms.q_learning.config import QLearningConfig
from marl.algorithms.q_learning.mixers import Mixer
from marl.errors import InputError
from marl.learning.absent_agents import expected_values, without_absent
from marl.networks.action_encodings import one_hot
from marl.networks.categorical import mask_scores
from marl.networks.torso import Head
from marl.specs import ContinuousActions, DiscreteActions, EnvironmentSpec, GroupSpec


def require_discrete_actions(spec: EnvironmentSpec) -> None:
    """Raises InputError where agents do anything else than to make one discrete choice."""
    for group in spec.groups:
        if not isinstance(group.action, DiscreteActions):
            kind = "continuous" if isinstance(group.action, ContinuousActions) else "multi-discrete"
            raise InputError(
                f"{group.name} has {kind} actions, but Q-learners need one discrete choice; "
                "use mappo, or maddpg for continuous actions"
            )


def num_actions(group: GroupSpec) -> int:
    """Number of actions that an agent of the group chooses from, K."""
    assert isinstance(group.action, DiscreteActions)
    return group.action.num_actions


class QNetwork(nn.Module):
    """Observations of one group to values of actions.

    Args:
        group: with single discrete actions.
        config: layers, whether they have a memory, and whether values are dueling.
    """

    def __init__(self, group: GroupSpec, config: QLearningConfig) -> None:
        super().__init__()
        self.torso = config.make_torso([group.observation], group.size, recurrent=config.recurrent)
        self.advantages = Head(self.torso.size, num_actions(group), 0.1)
        self.value = Head(self.torso.size, 1, 0.1) if config.dueling else None

    def forward(self, observations: Tensor) -> Tensor:
        """(..., A, *) prepared observations to (..., A, K) values, without a memory."""
        return self.values(self.torso.features([observations]))

    def values(self, features: Tensor) -> Tensor:
        """(..., size) features to (..., K) values (Wang et al. 2016, "Dueling network architectures", eq. 9)."""
        advantages: Tensor = self.advantages(features)
        if self.value is None:
            return advantages
        value: Tensor = self.value(features)
        return value + advantages - advantages.mean(-1, keepdim=True)


def unroll(network: QNetwork, observations: Tensor) -> Tensor:
    """Values (L + 1, B, A, K) along sequences of prepared observations, from an empty memory."""
    features = network.torso.features([observations])
    begins = torch.zeros(features.shape[:-1], dtype=torch.bool, device=features.device)
    return network.values(network.torso.unroll(features, network.torso.initial_state(*features.shape[1:-1]), begins))


class ActionValues(NamedTuple):
    """Values of all actions of one group's agents, and one action of each agent."""

    values: Tensor
    """(..., A, K)."""
    masks: Tensor | None
    """(..., A, K) bool, True where legal; None if all are."""
    actions: Tensor
    """(..., A) int64."""
    active: Tensor
    """(..., A) bool."""

    def chosen(self) -> Tensor:
        """(..., A) values of the actions."""
        return self.values.gather(-1, self.actions.unsqueeze(-1)).squeeze(-1)

    def encoded(self) -> Tensor:
        """(..., A, K) one-hot actions, zeros for agents that do not act."""
        return without_absent(one_hot(self.actions, self.values.shape[-1]), self.active).to(self.values.dtype)

    def of_places(self) -> Tensor:
        """(..., A) values of the actions, and of the places of agents that do not act."""
        return expected_values(self.values, self.encoded())


class QNetworks(nn.Module):
    """All groups' networks, and the mixer of their values.

    Args:
        groups: the networks by group, in the order of groups.
        mixer: None for independent learners, where there is no value of the team.
    """

    def __init__(self, groups: Mapping[str, QNetwork], mixer: Mixer | None) -> None:
        super().__init__()
        self._indices = {name: index for index, name in enumerate(groups)}
        self.groups = nn.ModuleList(groups.values())
        self.mixer = mixer

    def of(self, group: GroupSpec) -> QNetwork:
        """A group's network."""
        network = self.groups[self._indices[group.name]]
        assert isinstance(network, QNetwork)
        return network

    def segments(self) -> dict[str, list[nn.Parameter]]:
        """Parameters whose gradients are clipped together: each independent group's, or the whole team's."""
        if self.mixer is not None:
            return {"team": list(self.parameters())}
        return {name: list(self.groups[index].parameters()) for name, index in self._indices.items()}

    def mix(self, groups: Sequence[ActionValues], state: Tensor | None) -> Tensor:
        """Computes the team's values (...) of all groups' actions in (..., *shape) prepared states; see Mixer."""
        assert self.mixer is not None, "without a mixer there is no value of the team"
        joint = {
            # Not those with masks: in the padding of sequences, which is left out in the end, actions may be illegal.
            "chosen": torch.cat([each.chosen() for each in groups], -1),
            "active": torch.cat([each.active for each in groups], -1),
        }
        if self.mixer.reads_joint:
            joint["best"] = torch.cat([mask_scores(each.values, each.masks).amax(-1) for each in groups], -1)
            joint["actions"] = torch.cat([each.encoded().flatten(-2) for each in groups], -1)
        mixed: Tensor = self.mixer(**joint, state=state)
        return mixed
