"""Losses of temporal differences: of a team's value, or of single agents' values.

Rows (...) are (B,) transitions, or (L, B) steps of sequences; A are the agents of a group.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
from torch import Tensor

from marl.algorithms.off_policy.gradient_steps import Losses
from marl.algorithms.q_learning.batches import GroupValues, ValueBatch
from marl.algorithms.q_learning.config import QLearningConfig
from marl.algorithms.q_learning.networks import QNetworks
from marl.learning.losses import td_loss
from marl.learning.returns import lambda_returns, n_step_returns

TD_METRICS: Final = ("samples", "loss", "absolute_error", "value", "target")
"""The metrics of ``td_losses``."""


class TDTerms(NamedTuple):
    """Terms of temporal differences: (...) of the team, or (..., A) of a group's agents."""

    values: Tensor
    """Of the actions taken, with gradient."""
    next_values: Tensor
    """Of the greedy actions that follow."""
    rewards: Tensor
    """On the way there."""
    discounts: Tensor
    """Discount factors of the next values."""
    learn: Tensor
    """bool."""
    ended: Tensor | None = None
    """bool: no later reward counts, the next value is the bootstrap; None where rows are transitions."""


def team_terms(batch: ValueBatch, networks: QNetworks, targets: QNetworks) -> TDTerms:
    """Mixes the values of all agents' actions, and those of their greedy actions next."""
    values = networks.mix([group.taken for group in batch.groups.values()], batch.state)
    with torch.no_grad():
        next_values = targets.mix([group.greedy_next for group in batch.groups.values()], batch.next_state)
    return TDTerms(values, next_values, batch.rewards, batch.discounts, batch.learn, batch.ended)


def agent_terms(group: GroupValues, batch: ValueBatch, *, team_reward: bool) -> TDTerms:
    """Takes each agent's value of its action, and that of its greedy action next, for independent learners."""
    ended = None if batch.ended is None else batch.ended.unsqueeze(-1)
    if team_reward:
        # What the team receives after an agent's death is still part of the return of its actions.
        values, next_values = group.taken.of_places(), group.greedy_next.of_places()
        rewards, discounts, learn = (
            each.unsqueeze(-1).expand_as(values) for each in (batch.rewards, batch.discounts, batch.learn)
        )
        return TDTerms(
            values, next_values, rewards, discounts, learn, None if ended is None else ended.expand_as(values)
        )
    return TDTerms(
        group.taken.chosen(),
        group.greedy_next.chosen(),
        group.rewards,
        group.discounts,
        batch.learn.unsqueeze(-1) & group.taken.active,
        # An agent may be cut off before its episode ends.
        None if ended is None else ended | ~group.greedy_next.active,
    )


def td_losses(terms: TDTerms, batch: ValueBatch, config: QLearningConfig) -> Losses:
    """Weighs losses of values against one-step targets, or along sequences n-step or TD(λ) targets.

    Args:
        terms: of the batch's rows.
        batch: its items' weights, and which steps of sequences count.
        config: ``n_step`` rewards are summed in sequences (those of transitions are sums already), or all that follow,
            weighted by powers of ``td_lambda``; ``huber_delta``, see ``td_loss``.

    Returns:
        The sum of losses, (5,) sums of TD_METRICS, and (B,) the items' absolute errors: the largest agent's; of
        sequences, a mixture of the largest step's and the mean (Kapturowski et al. 2019, section 2.3).
    """
    values, ended, weights = terms.values, terms.ended, batch.weights
    of_agents = values.dim() > batch.discounts.dim()
    if of_agents:
        weights = weights.unsqueeze(-1)
    if ended is None:
        targets = terms.rewards + terms.discounts * terms.next_values
    else:
        steps = {
            "rewards": terms.rewards,
            "discounts": terms.discounts,
            "next_values": terms.next_values,
            "ended": ended,
        }
        if config.td_lambda is None:
            targets = n_step_returns(**steps, n=config.n_step)
        else:
            targets = lambda_returns(**steps, lambda_=config.td_lambda)
    counted = terms.learn.to(values.dtype)
    loss = (td_loss(values, targets, config.huber_delta) * counted * weights).sum()
    with torch.no_grad():
        errors = (values - targets).abs() * counted
        metrics = torch.stack((counted.sum(), loss, errors.sum(), (values * counted).sum(), (targets * counted).sum()))
        if of_agents:
            errors = errors.amax(-1)
        if ended is not None:
            errors = 0.9 * errors.amax(0) + 0.1 * errors.sum(0) / batch.learn.sum(0).clamp(min=1)
    return Losses(total=loss, metrics=metrics, td_errors=errors)
