"""Games between policies: equilibria of payoff matrices, rankings from them, and meta-strategies for PSRO.

All functions are pure and deterministic, take numpy arrays, and scale with payoffs (doubling all payoffs changes
no strategy), except where an intensity such as alpha sets the unit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marl.errors import InputError
from marl.payoffs import Floats, Integers

MetaSolver = Callable[[Sequence[Floats]], tuple[Floats, ...]]
"""From one payoff array a player, each of shape (S_1, ..., S_K), to one mixture a player, (S_k,)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ZeroSumEquilibrium:
    """The equilibrium of greatest entropy of a two-player zero-sum game."""

    row: Floats
    """(R,) the maximising player's mixture."""
    column: Floats
    """(C,) the minimising player's."""
    value: float
    """What the row player receives."""


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
    """(P,) the equilibrium of greatest entropy: who matters."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class AlphaRank:
    """The long-run share of each pure profile under evolution."""

    distribution: Floats
    """Shape of the game: (P,) for one population, (S_1, ..., S_K) for K."""
    marginals: tuple[Floats, ...]
    """One a population, (S_k,)."""
    order: Integers
    """Flat indices of profiles, best first; equals in order of index."""


def alpha_rank(payoffs: Any, *, alpha: float = 1.0, population: int = 50) -> AlphaRank:
    """alpha-rank (Omidshafiei et al. 2019, Scientific Reports 9:9937, arXiv:1903.01373).

    The stationary distribution of the Markov chain over monomorphic populations: a mutant appears, and takes
    over with its fixation probability under Fermi (logistic) imitation of intensity alpha. Everything is
    computed in logarithms and without subtraction, so it is exact in each entry's leading digits however large
    alpha is.

    Args:
        payoffs: for one population of a symmetric two-player game, its (P, P) payoff matrix (row's payoff
            against column); for K populations, a sequence of K arrays of shape (S_1, ..., S_K).
        alpha: intensity of selection, per unit of payoff.
        population: individuals in each population, m.

    Raises:
        ValueError: shapes do not fit, or alpha or population are out of range.
    """
    if alpha < 0.0 or not math.isfinite(alpha) or population < 2:
        raise ValueError(f"alpha must be at least 0 and population at least 2, not {alpha} and {population}")
    if isinstance(payoffs, np.ndarray) and payoffs.ndim == 2:
        transitions = _single_population_chain(np.asarray(payoffs, dtype=np.float64), alpha, population)
        shape: tuple[int, ...] = (len(payoffs),)
    else:
        tensors = _payoff_tensors(payoffs)
        shape = tensors[0].shape
        transitions = _multi_population_chain(tensors, alpha, population)
    flat = _stationary_distribution(transitions)
    distribution: Floats = flat.reshape(shape)
    axes = range(len(shape))
    return AlphaRank(
        distribution=distribution,
        marginals=tuple(distribution.sum(tuple(other for other in axes if other != axis)) for axis in axes),
        order=np.argsort(-flat, kind="stable"),
    )


def _single_population_chain(payoff: Floats, alpha: float, m: int) -> Floats:
    """Logarithms of transition probabilities from resident (row) to mutant (column); the diagonal is not set."""
    if payoff.shape[0] != payoff.shape[1] or not payoff.size or not np.isfinite(payoff).all():
        raise ValueError(f"one population needs a finite square payoff matrix, not one of shape {payoff.shape}")
    own = np.diag(payoff)
    mutants = np.arange(1, m)[:, None, None]
    # Nobody plays against itself (eq. 5 and 6 of the supplement). payoff.T[r, t] is the mutant's against a resident.
    mutant = ((mutants - 1) * own[None, None, :] + (m - mutants) * payoff.T) / (m - 1)
    resident = (mutants * payoff + (m - mutants - 1) * own[None, :, None]) / (m - 1)
    # rho = 1 / (1 + sum_k prod_{l<=k} exp(-alpha (f_mutant - f_resident)))
    terms = np.concatenate((np.zeros((1, *payoff.shape)), np.cumsum(-alpha * (mutant - resident), axis=0)))
    chain: Floats = -_log_sum_exp(terms, axis=0) - math.log(max(len(payoff) - 1, 1))
    return chain


def _multi_population_chain(payoffs: Sequence[Floats], alpha: float, m: int) -> Floats:
    """The same between profiles that differ in one population's strategy; minus infinity elsewhere."""
    shape = payoffs[0].shape
    profiles = np.arange(math.prod(shape)).reshape(shape)
    log_share = -math.log(max(sum(shape) - len(shape), 1))
    chain = np.full((profiles.size, profiles.size), -np.inf)
    for axis, payoff in enumerate(payoffs):
        # Lines of profiles along this population's axis: (others, S_k).
        line = np.moveaxis(profiles, axis, -1).reshape(-1, shape[axis])
        earned = np.moveaxis(payoff, axis, -1).reshape(-1, shape[axis])
        gain = alpha * (earned[:, None, :] - earned[:, :, None])
        chain[line[:, :, None], line[:, None, :]] = _log_constant_fixation(gain, m) + log_share
    return chain


def _log_constant_fixation(gain: Floats, m: int) -> Floats:
    """Logarithm of (1 - exp(-x)) / (1 - exp(-m x)), the fixation probability at constant advantage x; -log m at 0."""
    size = np.abs(gain)
    safe = np.where(size > 0, size, 1.0)
    ratio = np.log(-np.expm1(-safe)) - np.log(-np.expm1(-m * safe))
    # For x < 0 numerator and denominator are multiplied by exp(x) and exp(m x).
    logs: Floats = np.where(size > 0, np.where(gain > 0, ratio, ratio - (m - 1) * safe), -math.log(m))
    return logs


def _stationary_distribution(log_transitions: Floats) -> Floats:
    """Stationary distribution of a chain by Grassmann, Taksar and Heyman's elimination (1985), in logarithms.

    It never subtracts, so it holds for chains whose probabilities lie hundreds of orders of magnitude apart.
    """
    chain = log_transitions.copy()
    size = len(chain)
    with np.errstate(invalid="ignore"):
        for last in range(size - 1, 0, -1):
            leave = _log_sum_exp(chain[last, :last], axis=0)
            chain[:last, last] -= leave
            detour = chain[:last, last, None] + chain[None, last, :last]
            chain[:last, :last] = np.logaddexp(chain[:last, :last], detour)
    weights = np.zeros(size)
    for state in range(1, size):
        weights[state] = _log_sum_exp(weights[:state] + chain[:state, state], axis=0)
    shares = np.exp(weights - weights.max())
    distribution: Floats = shares / shares.sum()
    return distribution


def _log_sum_exp(terms: Floats, axis: int) -> Floats:
    logs: Floats = np.logaddexp.reduce(terms, axis=axis)
    return logs


def replicator_step(payoffs: Sequence[Floats], mixtures: Sequence[Floats]) -> tuple[Floats, ...]:
    """Time derivative of each population's mixture under the replicator dynamics (Taylor and Jonker 1978).

    Args:
        payoffs: K arrays of shape (S_1, ..., S_K).
        mixtures: K mixtures, (S_k,).
    """
    rates = []
    for axis, payoff in enumerate(payoffs):
        fitness = _deviation_payoffs(payoff, mixtures, axis)
        rates.append(mixtures[axis] * (fitness - mixtures[axis] @ fitness))
    return tuple(rates)


def uniform_meta_strategy(payoffs: Sequence[Floats]) -> tuple[Floats, ...]:
    """Each player mixes uniformly: PSRO with it is fictitious self-play."""
    return tuple(np.full(size, 1.0 / size) for size in _payoff_tensors(payoffs)[0].shape)


def nash_meta_strategy(payoffs: Sequence[Floats]) -> tuple[Floats, ...]:
    """The zero-sum equilibrium of greatest entropy (double oracle).

    A constant sum other than zero does no harm.

    Raises:
        InputError: the game has other than two players, or is not constant-sum.
    """
    tensors = _payoff_tensors(payoffs)
    if len(tensors) != 2:
        raise InputError(f"the Nash meta-strategy is for two players, not {len(tensors)}; use alpha-rank or replicator")
    total = tensors[0] + tensors[1]
    scale = max(float(np.abs(tensors[0]).max()), float(np.abs(tensors[1]).max()), 1e-300)
    if float(np.ptp(total)) > 1e-6 * scale:
        raise InputError("the Nash meta-strategy is for zero-sum games; use alpha-rank or replicator")
    equilibrium = zero_sum_nash((tensors[0] - tensors[1]) / 2)
    return equilibrium.row, equilibrium.column


def alpha_rank_meta_strategy(
    payoffs: Sequence[Floats], *, alpha: float = 1.0, population: int = 50
) -> tuple[Floats, ...]:
    """Marginals of multi-population alpha-rank (Muller et al. 2020, arXiv:1909.12823, use the joint one)."""
    return alpha_rank(_payoff_tensors(payoffs), alpha=alpha, population=population).marginals


def projected_replicator_meta_strategy(
    payoffs: Sequence[Floats], *, iterations: int = 20_000, step_size: float = 1e-2, exploration: float = 1e-6
) -> tuple[Floats, ...]:
    """Projected replicator dynamics (Lanctot et al. 2017, arXiv:1711.00832, section 3.1), averaged over time.

    Each population follows the replicator dynamics from the uniform mixture by Euler steps; after each the
    mixture is projected onto those that play every strategy with probability at least ``exploration / S_k``.

    Args:
        payoffs: K arrays of shape (S_1, ..., S_K).
        iterations: Euler steps.
        step_size: their length, in units of one over the payoffs' range.
        exploration: gamma of the paper, in [0, 1).
    """
    tensors = _payoff_tensors(payoffs)
    spread = max(float(np.ptp(tensor)) for tensor in tensors)
    mixtures = uniform_meta_strategy(tensors)
    if spread == 0.0:
        return mixtures
    normalised = [tensor / spread for tensor in tensors]
    current = list(mixtures)
    sums = [np.zeros_like(mixture) for mixture in mixtures]
    for _ in range(iterations):
        for player, rate in enumerate(replicator_step(normalised, current)):
            mixture = current[player] + step_size * rate
            minimum = exploration / len(mixture)
            # The dynamics keep the sum, so where no entry is too small the projection changes nothing.
            if mixture.min() < minimum:
                mixture = project_to_simplex(mixture, minimum=minimum)
            current[player] = mixture
            sums[player] += mixture
    return tuple(total / total.sum() for total in sums)


def project_to_simplex(point: Floats, *, minimum: float = 0.0) -> Floats:
    """The nearest mixture with all entries at least ``minimum`` (Held, Wolfe and Crowder 1974).

    Args:
        point: (S,).
        minimum: at most 1 / S.
    """
    mass = 1.0 - minimum * len(point)
    if mass < -1e-12:
        raise ValueError(f"{len(point)} entries of at least {minimum} sum to more than 1")
    shifted = point - minimum
    descending = np.sort(shifted)[::-1]
    excess = (np.cumsum(descending) - mass) / np.arange(1, len(point) + 1)
    threshold = excess[np.flatnonzero(descending - excess > 0)[-1]] if mass > 0 else shifted.max()
    projected: Floats = np.maximum(shifted - threshold, 0.0) + minimum
    return projected


def _payoff_tensors(payoffs: Sequence[Floats]) -> list[Floats]:
    tensors = [np.asarray(payoff, dtype=np.float64) for payoff in payoffs]
    shapes = {tensor.shape for tensor in tensors}
    if len(shapes) != 1 or tensors[0].ndim != len(tensors) or not tensors[0].size:
        raise ValueError(f"{len(tensors)} players need as many payoff arrays with one axis a player, not {shapes}")
    if not all(np.isfinite(tensor).all() for tensor in tensors):
        raise ValueError("payoffs must be finite")
    return tensors


def _deviation_payoffs(payoff: Floats, mixtures: Sequence[Floats], axis: int) -> Floats:
    """Expected payoff of each pure strategy of player ``axis`` while the others mix: (S_axis,)."""
    result = payoff
    for mixture in reversed(mixtures[axis + 1 :]):
        result = result @ mixture
    for mixture in mixtures[:axis]:
        result = mixture @ result.reshape(len(mixture), -1)
    return result
