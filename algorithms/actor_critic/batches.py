"""Batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from marl.networks.action_encodings import action_features, encode_actions
from marl.networks.torso import prepare_input
from marl.replay import Transitions
from marl.specs import EnvironmentSpec


class JointActions:
    """Where each agent's action lies in the joint action: groups in sorted order, and their agents in order."""

    def __init__(self, spec: EnvironmentSpec, device: torch.device | str = "cpu") -> None:
        self._names = tuple(group.name for group in spec.groups)
        self.size = sum(group.size * action_features(group.action) for group in spec.groups)
        """Numbers of a joint action, N."""
        self._others: dict[str, Tensor] = {}
        start = 0
        for group in spec.groups:
            width = action_features(group.action)
            others = torch.ones((group.size, self.size), device=device)
            for row in others:
                row[start : start + width] = 0.0
                start += width
            self._others[group.name] = others

    def join(self, actions: Mapping[str, Tensor]) -> Tensor:
        """(B, A, features) of every group to (B, N)."""
        return torch.cat([actions[name].flatten(1) for name in self._names], dim=-1)

    def others(self, name: str, joint: Tensor) -> Tensor:
        """What the others do: (B, N) joint actions to (B, A, N), with zeros where the agent's own action is."""
        return joint.unsqueeze(1) * self._others[name]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupBatch:
    """What one group learns from, as networks read it."""

    observations: Tensor
    """(B, A, *) prepared."""
    next_observations: Tensor
    """(B, A, *) prepared."""
    actions: Tensor
    """(B, A, features); zero where the agent was not active."""
    masks: Tensor | None
    """(B, A, mask size) bool."""
    next_masks: Tensor | None
    """(B, A, mask size) bool."""
    rewards: Tensor
    """(B, A): the agent's own, or the team's."""
    discounts: Tensor
    """(B, A): what the value at the next step counts for."""
    actor_weights: Tensor
    """(B, A): 1 where the agent acted, else 0, times importance weights."""
    critic_weights: Tensor
    """(B, A): the same; with a team reward also where it was dead, since what its team receives goes on."""
    next_active: Tensor
    """(B, A, 1): 1 where the agent acts next, else 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JointBatch:
    """What all groups learn from."""

    groups: Mapping[str, GroupBatch]
    state: Tensor | None
    """(B, 1, *) prepared."""
    next_state: Tensor | None
    """(B, 1, *) prepared."""


def prepare_batch(spec: EnvironmentSpec, sample: Transitions, *, team_reward: bool, normalize: bool) -> JointBatch:
    """Transitions as actors and critics read them.

    Args:
        spec: the environment's.
        sample: this rank's share of a global batch.
        team_reward: whether all agents learn from the sum of all agents' rewards.
        normalize: see ``prepare_input``.
    """

    def prepared_state(state: Tensor | None) -> Tensor | None:
        if state is None or spec.state is None:
            return None
        return prepare_input(spec.state, state, normalize=normalize).unsqueeze(1)

    team = torch.stack([data.rewards.sum(1, keepdim=True) for data in sample.groups.values()]).sum(0)
    weights = sample.weights.unsqueeze(1)
    groups: dict[str, GroupBatch] = {}
    for group in spec.groups:
        data = sample.groups[group.name]
        active = data.active.to(weights.dtype)
        shape = active.shape
        groups[group.name] = GroupBatch(
            observations=prepare_input(group.observation, data.observations, normalize=normalize),
            next_observations=prepare_input(group.observation, data.next_observations, normalize=normalize),
            actions=encode_actions(group.action, data.actions) * active.unsqueeze(-1),
            masks=data.action_masks,
            next_masks=data.next_action_masks,
            rewards=team.expand(shape) if team_reward else data.rewards,
            discounts=sample.discounts.unsqueeze(1).expand(shape) if team_reward else data.discounts,
            actor_weights=active * weights,
            critic_weights=weights.expand(shape) if team_reward else active * weights,
            next_active=data.next_active.to(weights.dtype).unsqueeze(-1),
        )
    return JointBatch(groups=groups, state=prepared_state(sample.state), next_state=prepared_state(sample.next_state))
