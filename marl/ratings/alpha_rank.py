"""alpha-rank: players ranked by how an evolving population plays in the long run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from marl.types import Floats, Integers


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
        tensors = payoff_tensors(payoffs)
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


def payoff_tensors(payoffs: Sequence[Floats]) -> list[Floats]:
    """Payoffs as float64, one array a player, (S_1, ..., S_K); ValueError where shapes do not fit, or for NaN."""
    tensors = [np.asarray(payoff, dtype=np.float64) for payoff in payoffs]
    shapes = {tensor.shape for tensor in tensors}
    if len(shapes) != 1 or tensors[0].ndim != len(tensors) or not tensors[0].size:
        raise ValueError(f"{len(tensors)} players need as many payoff arrays with one axis a player, not {shapes}")
    if not all(np.isfinite(tensor).all() for tensor in tensors):
        raise ValueError("payoffs must be finite")
    return tensors
