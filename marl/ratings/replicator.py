"""Replicator dynamics of games between policies, and the mixture that they lead to, for PSRO."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from marl.ratings.alpha_rank import payoff_tensors
from marl.types import Floats


def replicator_mixture(payoff: Floats) -> Floats:
    """The mixture of PSRO by projected replicator dynamics, in a symmetric zero-sum game.

    Args:
        payoff: (N, N) antisymmetric, what the row's player wins from the column's.

    Returns:
        (N,).
    """
    return projected_replicator([payoff, -payoff])[0]


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


def projected_replicator(
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
    tensors = payoff_tensors(payoffs)
    spread = max(float(np.ptp(tensor)) for tensor in tensors)
    mixtures = tuple(np.full(size, 1.0 / size) for size in tensors[0].shape)
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


def _deviation_payoffs(payoff: Floats, mixtures: Sequence[Floats], axis: int) -> Floats:
    """Expected payoff of each pure strategy of player ``axis`` while the others mix: (S_axis,)."""
    result = payoff
    for mixture in reversed(mixtures[axis + 1 :]):
        result = result @ mixture
    for mixture in mixtures[:axis]:
        result = mixture @ result.reshape(len(mixture), -1)
    return result
