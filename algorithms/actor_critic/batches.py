"""Transitions of replay as actors and critics read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from marl.algorithms.actor_critic.config import ActorCriticConfig
from marl.networks.action_encodings import action_features, encode_actions
from marl.networks.torso import prepare_input
from marl.replay import Transitions
from marl.specs import EnvironmentSpec


class JointActions:
    """Joint actions: all agents' encoded actions side by side, groups in sorted order, and their agents in order."""

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
        """Joins (B, A, features) of every group to (B, N)."""
        return torch.cat([actions[name].flatten(1) for name in self._names], dim=-1)

    def others(self, name: str, joint: Tensor) -> Tensor:
        """(B, N) joint actions to (B, A, N), each with zeros in place of the agent's own action."""
        return joint.unsqueeze(1) * self._others[name]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupBatch:
    """One group's part of a batch."""

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
    """(B, A): discount factors of the value at the next step."""
    actor_weights: Tensor
    """(B, A): 1 where the agent acted, else 0, times importance weights."""
    critic_weights: Tensor
    """(B, A): the same; with a team reward also where it was dead, since its team's rewards go on."""
    next_active: Tensor
    """(B, A, 1): 1 where the agent acts next, else 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JointBatch:
    """A batch of all groups, as networks read it."""

    groups: Mapping[str, GroupBatch]
    state: Tensor | None
    """(B, 1, *) prepared."""
    next_state: Tensor | None
    """(B, 1, *) prepared."""
    weights: Tensor
    """(B,): importance weights."""


def prepare_batch(spec: EnvironmentSpec, sample: Transitions, config: ActorCriticConfig) -> JointBatch:
    """Prepares transitions for actors and critics.

    Args:
        spec: the environment's.
        sample: this rank's share of a global batch.
        config: whether all agents learn from the sum of all agents' rewards, and whether inputs are normalised.
    """
    team_reward, normalize = config.team_reward, config.normalizes_inputs

    def prepare_state(state: Tensor | None) -> Tensor | None:
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
    return JointBatch(
        groups=groups,
        state=prepare_state(sample.state),
        next_state=prepare_state(sample.next_state),
        weights=sample.weights,
    )
