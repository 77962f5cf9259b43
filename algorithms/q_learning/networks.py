"""Values of single choices: networks of them, alone and as a team, and policies that take the best one or explore."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from marl.algorithms.q_learning.mixers import Mixer
from marl.errors import InputError
from marl.networks.action_encodings import one_hot
from marl.networks.torso import Activation, Head, Torso
from marl.specs import ContinuousActions, DiscreteActions, EnvironmentSpec, GroupSpec


def require_choices(spec: EnvironmentSpec) -> None:
    """InputError where agents do anything else than to make one discrete choice."""
    for group in spec.groups:
        if not isinstance(group.action, DiscreteActions):
            kind = "continuous" if isinstance(group.action, ContinuousActions) else "multi-discrete"
            raise InputError(
                f"{group.name} has {kind} actions, but Q-learners need one discrete choice; "
                "use mappo, or maddpg for continuous actions"
            )


def num_actions(group: GroupSpec) -> int:
    """How many actions an agent of the group chooses from."""
    assert isinstance(group.action, DiscreteActions)
    return group.action.num_actions


def legal_values(values: Tensor, masks: Tensor | None) -> Tensor:
    """(..., K) values, with minus infinity in place of actions that the (..., K) mask forbids."""
    return values if masks is None else values.masked_fill(~masks, -torch.inf)


class QNetwork(nn.Module):
    """Observations of one group to values of actions.

    Args:
        group: whose actions are single choices.
        hidden_sizes: see Torso; likewise ``activation``, ``layer_norm`` and ``recurrent``.
        dueling: whether values are that of the observation plus advantages of actions.
    """

    def __init__(
        self,
        group: GroupSpec,
        *,
        hidden_sizes: Sequence[int],
        activation: Activation,
        layer_norm: bool,
        recurrent: bool,
        dueling: bool,
    ) -> None:
        super().__init__()
        self.torso = Torso(
            [group.observation],
            num_agents=group.size,
            hidden_sizes=hidden_sizes,
            activation=activation,
            layer_norm=layer_norm,
            recurrent=recurrent,
        )
        self.advantages = Head(self.torso.size, num_actions(group), 0.1)
        self.value = Head(self.torso.size, 1, 0.1) if dueling else None

    def forward(self, seen: Tensor) -> Tensor:
        """(..., A, *) prepared observations to (..., A, actions) values, without a memory."""
        return self.values(self.torso.features([seen]))

    def values(self, features: Tensor) -> Tensor:
        """(..., size) features to (..., actions) values (Wang et al. 2016, "Dueling network architectures", eq. 9)."""
        advantages: Tensor = self.advantages(features)
        if self.value is None:
            return advantages
        value: Tensor = self.value(features)
        return value + advantages - advantages.mean(-1, keepdim=True)


def unroll(network: QNetwork, seen: Tensor) -> Tensor:
    """(L + 1, B, A, K) values along sequences of prepared observations, from an empty memory."""
    features = network.torso.features([seen])
    begins = torch.zeros(features.shape[:-1], dtype=torch.bool, device=features.device)
    return network.values(network.torso.unroll(features, network.torso.initial_state(*features.shape[1:-1]), begins))


class Choices(NamedTuple):
    """What the agents of one group do."""

    values: Tensor
    """(..., A, K)."""
    masks: Tensor | None
    """(..., A, K) bool, True where legal; None if all are, or where the values say it."""
    actions: Tensor
    """(..., A) int64."""
    active: Tensor
    """(..., A) bool."""

    def chosen(self) -> Tensor:
        """(..., A) values of the actions."""
        return self.values.gather(-1, self.actions.unsqueeze(-1)).squeeze(-1)


class QNetworks(nn.Module):
    """All groups' networks, and what makes the team's value of theirs.

    Args:
        groups: the networks by group, in the order of groups.
        mixer: None where there is no value of the team.
    """

    def __init__(self, groups: Mapping[str, QNetwork], mixer: Mixer | None) -> None:
        super().__init__()
        self._places = {name: place for place, name in enumerate(groups)}
        self.groups = nn.ModuleList(groups.values())
        self.mixer = mixer

    def of(self, group: GroupSpec) -> QNetwork:
        """A group's network."""
        network = self.groups[self._places[group.name]]
        assert isinstance(network, QNetwork)
        return network

    def segments(self) -> dict[str, list[nn.Parameter]]:
        """Parameters that are clipped together: independent groups' apart, those of a team together."""
        if self.mixer is not None:
            return {"team": list(self.parameters())}
        return {name: list(self.groups[place].parameters()) for name, place in self._places.items()}

    def mix(self, choices: Sequence[Choices], state: Tensor | None) -> Tensor:
        """(...) the team's values of all groups' choices in (..., *shape) prepared states; see Mixer."""
        assert self.mixer is not None, "without a mixer there is no value of the team"
        joint = {
            # Not those with masks: in the padding of sequences, which is left out in the end, actions may be illegal.
            "chosen": torch.cat([each.chosen() for each in choices], -1),
            "active": torch.cat([each.active for each in choices], -1),
        }
        if self.mixer.reads_joint:
            actions = [one_hot(each.actions, each.values.shape[-1]).flatten(-2) for each in choices]
            joint["best"] = torch.cat([legal_values(each.values, each.masks).amax(-1) for each in choices], -1)
            joint["actions"] = torch.cat(actions, -1).to(joint["best"].dtype)
        mixed: Tensor = self.mixer(**joint, state=state)
        return mixed
