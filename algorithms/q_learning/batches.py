"""Samples of replay as Q-learners read them: values of the actions taken, and of the greedy ones that follow.

Rows (...) are (B,) transitions, or (L, B) steps of sequences; A agents of a group choose among K actions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from marl.algorithms.q_learning.config import QLearningConfig
from marl.algorithms.q_learning.networks import ActionValues, QNetwork, QNetworks, unroll
from marl.networks.categorical import mask_scores
from marl.replay import GroupSequences, GroupTransitions, Sequences, Transitions
from marl.specs import EnvironmentSpec, GroupSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupValues:
    """Values of one group's actions, now and next."""

    taken: ActionValues
    """The actions taken, by the online network, with gradient."""
    greedy_next: ActionValues
    """The greedy legal actions at the next observation, by the target network."""
    rewards: Tensor
    """(..., A): the agent's own."""
    discounts: Tensor
    """(..., A): discount factors of the agent's own next value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueBatch:
    """A sample as Q-learners read it."""

    groups: Mapping[str, GroupValues]
    state: Tensor | None
    """(..., *shape) prepared."""
    next_state: Tensor | None
    """(..., *shape) prepared."""
    rewards: Tensor
    """(...): the sum of all agents'."""
    discounts: Tensor
    """(...): discount factors of the team's next value."""
    learn: Tensor
    """(...) bool."""
    ended: Tensor | None
    """(...) bool: nothing of the sequence follows; None where rows are transitions."""
    weights: Tensor
    """(B,): importance weights."""


def read_batch(
    spec: EnvironmentSpec,
    sample: Transitions | Sequences,
    networks: QNetworks,
    targets: QNetworks,
    config: QLearningConfig,
) -> ValueBatch:
    """Evaluates the actions taken in a sample, and the greedy actions that follow.

    Args:
        spec: the environment's.
        sample: this rank's share of a global batch.
        networks: the online networks.
        targets: the target networks.
        config: with ``double`` the online networks select the next actions, else the target networks (van Hasselt
            et al. 2016, "Deep reinforcement learning with double Q-learning").
    """

    def prepare(state: Tensor | None) -> Tensor | None:
        if state is None or spec.state is None:
            return None
        return config.prepare(spec.state, state)

    groups = {
        group.name: _read_group(group, sample.groups[group.name], networks.of(group), targets.of(group), config)
        for group in spec.groups
    }
    state = prepare(sample.state)
    if isinstance(sample, Sequences):
        state, next_state = (None, None) if state is None else (state[:-1], state[1:])
        learn, ended = sample.learn, torch.cat((~sample.valid[1:], torch.ones_like(sample.valid[:1])))
    else:
        next_state = prepare(sample.next_state)
        learn, ended = sample.weights > 0, None  # items without a weight are padding
    return ValueBatch(
        groups=groups,
        state=state,
        next_state=next_state,
        rewards=torch.cat([group.rewards for group in groups.values()], -1).sum(-1),
        discounts=sample.discounts,
        learn=learn,
        ended=ended,
        weights=sample.weights,
    )


def _read_group(
    group: GroupSpec,
    data: GroupTransitions | GroupSequences,
    online: QNetwork,
    target: QNetwork,
    config: QLearningConfig,
) -> GroupValues:
    observations = config.prepare(group.observation, data.observations)
    if isinstance(data, GroupSequences):
        masks, next_masks = None, None
        if data.action_masks is not None:
            masks, next_masks = data.action_masks[:-1], data.action_masks[1:]
        active, next_active = data.active[:-1], data.active[1:]
        values = unroll(online, observations)
        values, preferences = values[:-1], values[1:].detach()
        with torch.no_grad():
            next_values = unroll(target, observations)[1:]
    else:
        masks, next_masks = data.action_masks, data.next_action_masks
        active, next_active = data.active, data.next_active
        next_observations = config.prepare(group.observation, data.next_observations)
        values = online(observations)
        with torch.no_grad():
            next_values = target(next_observations)
            preferences = online(next_observations) if config.double else next_values
    next_actions = mask_scores(preferences if config.double else next_values, next_masks).argmax(-1)
    return GroupValues(
        taken=ActionValues(values, masks, data.actions, active),
        greedy_next=ActionValues(next_values, next_masks, next_actions, next_active),
        rewards=data.rewards,
        discounts=data.discounts,
    )
