"""Games between policies: equilibria of payoff matrices, rankings from them, and meta-strategies for PSRO.

All functions are pure and deterministic, take numpy arrays, and scale with payoffs (doubling all payoffs changes
no strategy), except where an intensity such as alpha sets the unit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from marl.errors import InputError
from marl.ratings.alpha_rank import _deviation_payoffs, _payoff_tensors, alpha_rank
from marl.ratings.nash import zero_sum_nash
from marl.types import Floats

MetaSolver = Callable[[Sequence[Floats]], tuple[Floats, ...]]
"""From one payoff array a player, each of shape (S_1, ..., S_K), to one mixture a player, (S_k,)."""


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
