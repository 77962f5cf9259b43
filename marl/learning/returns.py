"""Returns and advantages, as pure functions of tensors with time in front. No gradient flows through them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from marl.learning.shape_checks import check_equal_shapes


class GAEOutput(NamedTuple):
    """Results of ``gae``, each (T, E, A)."""

    advantages: Tensor
    """Zero where not valid."""
    returns: Tensor
    """Advantages plus values, the critic's targets; zero where not valid."""
    valid: Tensor
    """bool: the agent acted at this row, and the outcome of its action is known."""


@torch.no_grad()
def gae(
    *,
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    active: Tensor | None,
    terminated: Tensor,
    ended: Tensor,
    discount: float,
    lambda_: float,
) -> GAEOutput:
    """Generalized advantage estimation over each agent's own moves.

    Computes A_t = Σ_k (γλ)^k δ_{t+k} with δ_t = r_t + γ V_{t+1} - V_t, where t counts the steps at which the
    agent is active (Schulman et al. 2016, "High-dimensional continuous control using generalized advantage
    estimation", equations 11, 12 and 16). In turn-based games rewards that reach an agent between its moves
    belong, undiscounted, to its last move. Rewards after an agent's end, and before its first move, belong to none.

    Args:
        rewards: (T, E, A) float, received on the way from row t to row t+1.
        values: (T, E, A) float, V(row t). Read only at active rows.
        next_values: (T, E, A) float, V(row t+1), or V(last observation) where the agent's episode ended on the way.
            Read only at the last row and where ``ended``.
        active: (T+1, E, A) bool, agents that acted; None where all always do, which saves a read from the device.
        terminated: (T, E, A) bool, no value remains. Counts only where ``ended``.
        ended: (T, E, A) bool, the agent's episode ended on the way from row t to row t+1, for whatever reason.
        discount: γ, a step of the agent.
        lambda_: λ, between 0 (one-step advantages) and 1 (Monte Carlo).

    Returns:
        Advantages, returns and validity. Not valid are the rows at which the agent did not act, and an agent's
        last move where row T comes before its next turn.

    Raises:
        ValueError: shapes do not fit, or there is no step.
    """
    check_equal_shapes(rewards=rewards, values=values, next_values=next_values, terminated=terminated, ended=ended)
    length = rewards.shape[0]
    if length == 0:
        raise ValueError("rewards have no time step")
    # Nothing remains after a termination. Filling, not multiplying, so that what stood there may be anything.
    bootstrap = next_values.masked_fill(terminated & ended, 0.0)
    if active is not None:
        if active.shape != (length + 1, *rewards.shape[1:]):
            raise ValueError(f"active has shape {tuple(active.shape)}, not {(length + 1, *rewards.shape[1:])}")
        if not bool(active.all()):
            return _gae_of_moves(rewards, values, bootstrap, active, ended, discount, lambda_)
    following = torch.empty_like(bootstrap)
    torch.where(ended[:-1], bootstrap[:-1], values[1:], out=following[:-1])
    following[-1] = bootstrap[-1]
    advantages = following.mul_(discount).add_(rewards).sub_(values)
    _accumulate_backwards(advantages, torch.where(ended, 0.0, advantages.new_tensor(discount * lambda_)))
    return GAEOutput(advantages, advantages + values, torch.ones_like(ended))


def _gae_of_moves(
    rewards: Tensor,
    values: Tensor,
    bootstrap: Tensor,
    active: Tensor,
    ended: Tensor,
    discount: float,
    lambda_: float,
) -> GAEOutput:
    """``gae`` where some agents wait, have died or have not yet joined."""
    advantages = torch.empty_like(bootstrap)
    valid = torch.empty_like(ended)
    next_value = bootstrap[-1].clone()
    next_advantage = torch.zeros_like(next_value)
    reward = torch.zeros_like(next_value)
    known = active[-1].clone()
    scratch = torch.empty_like(next_value)
    zero = next_value.new_zeros(())
    rows = zip(*(tensor.unbind() for tensor in (rewards, values, bootstrap, active[:-1], ended)), strict=True)
    for row, (reward_t, value_t, bootstrap_t, active_t, ended_t) in reversed(list(enumerate(rows))):
        reward.masked_fill_(ended_t, 0.0).add_(reward_t)
        torch.where(ended_t, bootstrap_t, next_value, out=next_value)
        next_advantage.masked_fill_(ended_t, 0.0)
        known.logical_or_(ended_t)
        torch.logical_and(active_t, known, out=valid[row])
        advantage = torch.mul(next_value, discount, out=advantages[row]).add_(reward).sub_(value_t)
        advantage.add_(torch.mul(next_advantage, discount * lambda_, out=scratch))
        # A move whose outcome lies beyond the last row has no advantage, and lends none to earlier moves.
        torch.where(valid[row], advantage, zero, out=advantage)
        torch.where(active_t, value_t, next_value, out=next_value)
        torch.where(active_t, advantage, next_advantage, out=next_advantage)
        reward.masked_fill_(active_t, 0.0)
        known.logical_or_(active_t)
    returns = torch.where(valid, advantages + values, 0.0)
    return GAEOutput(advantages, returns, valid)


@torch.no_grad()
def n_step_returns(
    *, rewards: Tensor, discounts: Tensor, next_values: Tensor, n: int, ended: Tensor | None = None
) -> Tensor:
    """Bootstrapped n-step returns.

    G_t = r_t + γ_t r_{t+1} + … + γ_t ⋯ γ_{t+n-1} V_{t+n} (Sutton and Barto 2018, equation 7.1). Near an end, of
    the sequence or of an episode in it, fewer steps are summed and the value at the end is the bootstrap.

    Args:
        rewards: (T, ...) float, for the step from t to t+1.
        discounts: (T, ...) float, γ for that step; zero where it terminated.
        next_values: (T, ...) float, target values of what step t led to.
        n: how many rewards to sum, at least 1.
        ended: (T, ...) bool, the episode (or what is stored of it) ended with step t, so nothing after it counts;
            None where the sequences have no such step. Steps with discount zero need not be named.

    Returns:
        (T, ...) float.

    Raises:
        ValueError: shapes differ, or n < 1.
    """
    check_equal_shapes(rewards=rewards, discounts=discounts, next_values=next_values, ended=ended)
    if n < 1:
        raise ValueError(f"n must be at least 1, not {n}")
    following = next_values.clone()
    for _ in range(n - 1):
        # The k-step return is one step followed by the (k-1)-step return of the row after it.
        shorter = rewards[1:] + discounts[1:] * following[1:]
        following[:-1] = shorter if ended is None else torch.where(ended[:-1], next_values[:-1], shorter)
    return rewards + discounts * following


@torch.no_grad()
def lambda_returns(
    *, rewards: Tensor, discounts: Tensor, next_values: Tensor, lambda_: float, ended: Tensor | None = None
) -> Tensor:
    """λ-returns, the targets of TD(λ).

    G_t = r_t + γ_t ((1-λ) V_{t+1} + λ G_{t+1}), with the last value in place of what follows the last row
    (Sutton and Barto 2018, equation 12.20).

    Args:
        rewards: (T, ...) float, for the step from t to t+1.
        discounts: (T, ...) float, γ for that step; zero where it terminated.
        next_values: (T, ...) float, target values of what step t led to.
        lambda_: λ, between 0 (one-step targets) and 1 (the whole sequence).
        ended: as in ``n_step_returns``.

    Returns:
        (T, ...) float.

    Raises:
        ValueError: shapes differ.
    """
    check_equal_shapes(rewards=rewards, discounts=discounts, next_values=next_values, ended=ended)
    # As 1-λ of the next value and λ of the next return; past an end the return is that same value.
    carry = discounts * lambda_
    if ended is not None:
        carry = carry.masked_fill(ended, 0.0)
    carry[-1:] = 0.0
    returns = rewards + (discounts - carry) * next_values
    _accumulate_backwards(returns, carry)
    return returns


@torch.no_grad()
def discounted_returns(*, rewards: Tensor, discounts: Tensor, bootstrap: Tensor | None = None) -> Tensor:
    """Discounted sums of rewards, G_t = r_t + γ_t G_{t+1} (Sutton and Barto 2018, equation 3.9).

    Args:
        rewards: (T, ...) float.
        discounts: (T, ...) float; zero where an episode ended.
        bootstrap: (...) float, what follows the last row; None for nothing.

    Returns:
        (T, ...) float.

    Raises:
        ValueError: shapes differ.
    """
    check_equal_shapes(rewards=rewards, discounts=discounts)
    returns = rewards.clone()
    if bootstrap is not None:
        check_equal_shapes(rewards=rewards[-1], bootstrap=bootstrap)
        returns[-1] += discounts[-1] * bootstrap
    _accumulate_backwards(returns, discounts)
    return returns


def _accumulate_backwards(sums: Tensor, carry: Tensor) -> None:
    """In place, from the last row but one to the first: ``sums[t] += carry[t] * sums[t+1]``."""
    scratch = torch.empty_like(sums[0])
    rows = sums.unbind()
    carries = carry.unbind()
    for t in range(len(rows) - 2, -1, -1):
        rows[t].add_(torch.mul(carries[t], rows[t + 1], out=scratch))
