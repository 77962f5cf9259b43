"""Q-learning of several groups from replay: samples as values of networks, and losses of temporal differences.

Rows (...) are (B,) transitions, or (L, B) steps of sequences; A agents of a group choose among K actions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

import torch
from torch import Tensor

from marl.algorithms.off_policy.gradient_steps import Losses
from marl.algorithms.q_learning.networks import Choices, QNetwork, QNetworks, legal_values, unroll
from marl.learning.losses import td_loss
from marl.learning.returns import n_step_returns
from marl.networks.torso import prepare_input
from marl.replay import GroupSequences, GroupTransitions, Sequences, Transitions
from marl.specs import EnvironmentSpec, GroupSpec

TD_FIGURES: Final = ("samples", "loss", "absolute_error", "value", "target")
"""The figures of ``td_losses``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupValues:
    """What one group did, and could do next."""

    done: Choices
    """By the learning network, with gradient."""
    best: Choices
    """At the next observation by the target network, whose values are minus infinity where illegal."""
    rewards: Tensor
    """(..., A): the agent's own."""
    discounts: Tensor
    """(..., A): what the agent's own next value counts for."""


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
    """(...): what the team's next value counts for."""
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
    *,
    double: bool,
    normalize: bool,
) -> ValueBatch:
    """Values of what was seen and done in a sample, and of what can be done next.

    Args:
        spec: the environment's.
        sample: this rank's share of a global batch.
        networks: those that learn.
        targets: those that value what is next.
        double: whether ``networks`` choose the next actions, or ``targets`` do (van Hasselt et al. 2016, "Deep
            reinforcement learning with double Q-learning").
        normalize: see ``prepare_input``.
    """

    def prepared(state: Tensor | None) -> Tensor | None:
        return None if state is None or spec.state is None else prepare_input(spec.state, state, normalize=normalize)

    groups = {
        group.name: _read_group(
            group,
            sample.groups[group.name],
            networks.of(group),
            targets.of(group),
            double=double,
            normalize=normalize,
        )
        for group in spec.groups
    }
    state = prepared(sample.state)
    if isinstance(sample, Sequences):
        state, next_state = (None, None) if state is None else (state[:-1], state[1:])
        learn, ended = sample.learn, torch.cat((~sample.valid[1:], torch.ones_like(sample.valid[:1])))
    else:
        next_state = prepared(sample.next_state)
        learn, ended = sample.weights > 0, None  # items without a weight only fill up
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
    *,
    double: bool,
    normalize: bool,
) -> GroupValues:
    seen = prepare_input(group.observation, data.observations, normalize=normalize)
    if isinstance(data, GroupSequences):
        masks, next_masks = None, None
        if data.action_masks is not None:
            masks, next_masks = data.action_masks[:-1], data.action_masks[1:]
        active, next_active = data.active[:-1], data.active[1:]
        values = unroll(online, seen)
        values, preferences = values[:-1], values[1:].detach()
        with torch.no_grad():
            next_values = unroll(target, seen)[1:]
    else:
        masks, next_masks = data.action_masks, data.next_action_masks
        active, next_active = data.active, data.next_active
        following = prepare_input(group.observation, data.next_observations, normalize=normalize)
        values = online(seen)
        with torch.no_grad():
            next_values = target(following)
            preferences = online(following) if double else next_values
    next_values = legal_values(next_values, next_masks)
    next_actions = (legal_values(preferences, next_masks) if double else next_values).argmax(-1)
    return GroupValues(
        done=Choices(values, masks, data.actions, active),
        best=Choices(next_values, None, next_actions, next_active),
        rewards=data.rewards,
        discounts=data.discounts,
    )


class TDTerms(NamedTuple):
    """What temporal differences are made of: (...) of the team, or (..., A) of a group's agents."""

    values: Tensor
    """Of what was done, with gradient."""
    next_values: Tensor
    """Of the best that can be done next."""
    rewards: Tensor
    """On the way there."""
    discounts: Tensor
    """What the next value counts for."""
    learn: Tensor
    """bool."""


def td_losses(terms: TDTerms, batch: ValueBatch, *, n_step: int, huber_delta: float | None) -> Losses:
    """Weighted losses of values against one-step targets, or along sequences n-step targets.

    Args:
        terms: of the batch's rows.
        batch: which sequences end where, and its items' weights.
        n_step: rewards that are summed in sequences; those of transitions are sums already.
        huber_delta: see ``td_loss``.

    Returns:
        The sum of losses, (5,) sums of TD_FIGURES, and (B,) the items' absolute errors: the largest agent's; of
        sequences, a mixture of the largest step's and the mean (Kapturowski et al. 2019, section 2.3).
    """
    values, ended, weights = terms.values, batch.ended, batch.weights
    of_agents = values.dim() > batch.discounts.dim()
    if of_agents:
        weights = weights.unsqueeze(-1)
        ended = None if ended is None else ended.unsqueeze(-1).expand_as(values)
    if ended is None:
        targets = terms.rewards + terms.discounts * terms.next_values
    else:
        targets = n_step_returns(
            rewards=terms.rewards, discounts=terms.discounts, next_values=terms.next_values, n=n_step, ended=ended
        )
    counted = terms.learn.to(values.dtype)
    loss = (td_loss(values, targets, huber_delta) * counted * weights).sum()
    with torch.no_grad():
        errors = (values - targets).abs() * counted
        figures = torch.stack((counted.sum(), loss, errors.sum(), (values * counted).sum(), (targets * counted).sum()))
        if of_agents:
            errors = errors.amax(-1)
        if batch.ended is not None:
            errors = 0.9 * errors.amax(0) + 0.1 * errors.sum(0) / batch.learn.sum(0).clamp(min=1)
    return Losses(total=loss, figures=figures, td_errors=errors)
