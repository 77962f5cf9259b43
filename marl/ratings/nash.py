"""Nash equilibria of greatest entropy of two-player zero-sum games, and Nash averaging."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marl.types import Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class ZeroSumEquilibrium:
    """The equilibrium of greatest entropy of a two-player zero-sum game."""

    row: Floats
    """(R,) the maximising player's mixture."""
    column: Floats
    """(C,) the minimising player's."""
    value: float
    """The payoff of the row player."""


def zero_sum_nash(payoff: Any) -> ZeroSumEquilibrium:
    """The Nash equilibrium of greatest entropy of a matrix game; it is unique and treats equal strategies equally.

    First the supports: the central path of the self-dual form of the game's linear program (Goldman and Tucker
    1956; Ye, Todd and Mizuno 1994) leads to a strictly complementary equilibrium, whose support holds that of any
    other. On it the equilibria are a polytope given by equations and a few inequalities, and the entropy is
    maximised by Newton steps with a logarithmic barrier. Where the equilibrium is unique, the equations give it
    to rounding error. Payoffs that differ by less than about 1e-6 of their range, but do differ, can hide which
    strategies are in the support; then the end of the central path is returned, which is an equilibrium to
    1e-9 of the range, only not the one of greatest entropy.

    Args:
        payoff: (R, C) what the row player receives from the column player.

    Raises:
        ValueError: the matrix is empty or not finite.
    """
    matrix = np.asarray(payoff, dtype=np.float64)
    if matrix.ndim != 2 or not matrix.size or not np.isfinite(matrix).all():
        raise ValueError("the payoff must be a finite matrix with at least one row and column")
    low, high = float(matrix.min()), float(matrix.max())
    if high == low:
        rows, columns = matrix.shape
        return ZeroSumEquilibrium(row=np.full(rows, 1 / rows), column=np.full(columns, 1 / columns), value=low)
    rows, columns = matrix.shape
    if rows == columns and bool((matrix == -matrix.T).all()):
        scaled = matrix / high
        mixture, slack = _central_path(scaled)
        row_start = column_start = mixture
        row_support = column_support = mixture > slack
    else:
        # Payoffs in [1, 2], so that the value is positive, as the symmetrised game needs it.
        scaled = 1.0 + (matrix - low) / (high - low)
        # Gale, Kuhn and Tucker 1950: a symmetric game in which (p, q, u) solves p/u and q/u, the value is v.
        skew = np.zeros((rows + columns + 1, rows + columns + 1))
        skew[:rows, rows:-1] = scaled
        skew[:rows, -1] = -1.0
        skew[rows:-1, -1] = 1.0
        skew -= skew.T
        mixture, slack = _central_path(skew)
        row_support, column_support = np.split((mixture > slack)[:-1], [rows])
        row_start, column_start = (part / part.sum() for part in np.split(mixture[:-1], [rows]))
        scaled = scaled - row_start @ scaled @ column_start
    row = _max_entropy(-scaled.T, row_start, row_support, column_support)
    column = _max_entropy(scaled, column_start, column_support, row_support)
    if (scaled @ column).max() - (row @ scaled).min() > 1e-9:
        row, column = row_start, column_start
    return ZeroSumEquilibrium(row=row, column=column, value=float(row @ matrix @ column))


@dataclass(frozen=True, slots=True, kw_only=True)
class NashAverage:
    """A ranking that copies of players cannot change."""

    mixture: Floats
    """(P,) the equilibrium of greatest entropy: the weight of each player."""
    ratings: Floats
    """(P,) payoff against that mixture; zero for those in it, at most zero for others."""


def nash_averaging(payoff: Any) -> NashAverage:
    """Nash averaging of players by each other (Balduzzi et al. 2018, arXiv:1806.02643, Definition 2).

    Args:
        payoff: (P, P) antisymmetric: what the row's player wins from the column's on average, for instance
            log-odds of winning or ``PayoffTable.antisymmetric_payoff``.

    Raises:
        ValueError: the matrix is not antisymmetric.
    """
    matrix = np.asarray(payoff, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"the payoff must be a square matrix, not of shape {matrix.shape}")
    if not np.allclose(matrix, -matrix.T, rtol=0.0, atol=1e-9 * max(1.0, float(np.abs(matrix).max(initial=0.0)))):
        raise ValueError("Nash averaging needs an antisymmetric payoff: what one wins, the other loses")
    matrix = (matrix - matrix.T) / 2
    mixture = zero_sum_nash(matrix).row
    return NashAverage(mixture=mixture, ratings=matrix @ mixture)


def _central_path(skew: Floats) -> tuple[Floats, Floats]:
    """The end of the central path of a symmetric zero-sum game: mixture p and slack s = v - skew·p, both positive.

    On the path p_i s_i = v / n, which makes sum(p) = 1 because p'·skew·p = 0. The Jacobian is a positive
    diagonal plus a skew matrix up to scaling, so it is never singular. As v goes to 0, p_i or s_i, never both,
    goes to 0 (strict complementarity).
    """
    size = skew.shape[0]
    p = np.full(size, 1.0 / size)
    v = 4.0 * float(np.abs(skew).max())
    for _ in range(400):
        for _ in range(50):
            slack = v - skew @ p
            residual = p * slack - v / size
            step = np.linalg.solve(np.diag(slack / p) - skew, -residual / p)
            # Stay inside: at most 90 % of the way to where an entry of p or s would become zero.
            change = np.concatenate((step / p, -(skew @ step) / slack))
            scale = min(1.0, 0.9 / max(float(-change.min()), 1e-300))
            p = p + scale * step
            if scale == 1.0 and float(np.abs(change).max()) < 0.05:
                break
        if v < 1e-12:
            break
        # The next v must leave all slacks positive.
        slack = v - skew @ p
        v -= min(0.8 * v, 0.9 * float(slack.min()))
    return p, v - skew @ p


def _max_entropy(payoff: Floats, start: Floats, support: NDArray[np.bool_], tight: NDArray[np.bool_]) -> Floats:
    """The mixture x of greatest entropy with x = 0 off the support, (payoff·x) = 0 where tight and ≤ 0 elsewhere.

    Args:
        payoff: (M, N) payoffs of the opponent's M strategies against the N of this player, less the value.
        start: (N,) a mixture close to the relative interior of the solutions.
        support: (N,) where solutions may be positive.
        tight: (M,) the opponent's strategies that are played, so that none of them can do better than the others.
    """
    mixture = np.zeros(len(start))
    equalities = payoff[tight][:, support]
    # The value is only known approximately here; that all tight strategies earn the same does not need it.
    equalities = np.vstack((equalities - equalities.mean(0), np.ones(int(support.sum()))))
    target = np.zeros(len(equalities))
    target[-1] = 1.0
    x = start[support] / start[support].sum()
    left, singular, right = np.linalg.svd(equalities)
    rank = int((singular > 1e-9 * singular[0]).sum())
    # The point of the affine space that is nearest to the start, taken twice for the last digits.
    for _ in range(2):
        x = x + right[:rank].T @ ((left[:, :rank].T @ (target - equalities @ x)) / singular[:rank])
    directions = right[rank:].T
    if directions.shape[1] and (x > 0).all():
        earned = payoff[tight][:, support].mean(0)
        limits = payoff[~tight][:, support] - earned
        x = _barrier_newton(x, directions, limits[limits @ x < 0])
    mixture[support] = np.maximum(x, 0.0)
    result: Floats = mixture / mixture.sum()
    return result


def _barrier_newton(x: Floats, directions: Floats, limits: Floats) -> Floats:
    """Minimises sum x log x - barrier · sum log(-limits·x) over x + span(directions), as the barrier goes to 0."""

    def objective(point: Floats, barrier: float) -> float:
        slack = -limits @ point
        if point.min() <= 0.0 or (slack.size and slack.min() <= 0.0):
            return math.inf
        return float((point * np.log(point)).sum() - barrier * np.log(slack).sum())

    barrier = 1e-2 if len(limits) else 0.0
    while True:
        for _ in range(100):
            slack = -limits @ x
            gradient = directions.T @ (np.log(x) + 1.0 + limits.T @ (barrier / slack))
            scaled = (limits @ directions) / slack[:, None]
            hessian = directions.T @ (directions / x[:, None]) + barrier * scaled.T @ scaled
            step = np.linalg.solve(hessian, -gradient)
            decrement = float(-gradient @ step)
            if decrement < 1e-22:
                break
            value, scale = objective(x, barrier), 1.0
            while (
                scale > 1e-12 and objective(x + scale * directions @ step, barrier) > value - 1e-4 * scale * decrement
            ):
                scale /= 2
            if scale <= 1e-12:
                break
            x = x + scale * directions @ step
        if barrier < 1e-13:
            return x
        barrier /= 10.0
