"""Elo intervals by the bootstrap over pairs of games."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from marl.random_streams import derive
from marl.ratings.elo import EloConfig, anchoring_matrix, fit_elo
from marl.ratings.payoffs import Games
from marl.ratings.sprt import ELO_SCALE
from marl.types import Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class BootstrapElo:
    """Ratings of tournaments that are resampled from pairs of games."""

    players: tuple[str, ...]
    samples: Floats
    """(N, P) anchored ratings of the resampled tournaments, in Elo."""
    intervals: Floats
    """(P, 2): percentiles."""
    superiority: Floats
    """(P, P): share of resampled tournaments in which the row's player is ahead, ties counting half."""


def bootstrap_elo(
    games: Games, config: EloConfig | None = None, *, resamples: int = 1000, seed: int = 0
) -> BootstrapElo:
    """Elo intervals by the bootstrap over game pairs (Efron and Tibshirani 1993, ch. 8 and 13: percentiles).

    The unit is all games of one ``pair`` number, because games from the same seed are not independent. Units are
    drawn with replacement within each pairing, whose number of games the schedule fixed. The result depends on
    seed and games, not on their order.
    """
    config = config or EloConfig()
    anchoring = anchoring_matrix(games.players, config)
    size = len(games.players)
    code = (games.first * size + games.second) * 3 + games.outcome
    units: dict[int, list[int]] = {}
    for pair, game in zip(games.pair.tolist(), code.tolist(), strict=True):
        units.setdefault(pair, []).append(game)
    strata: dict[tuple[int, ...], dict[tuple[int, ...], int]] = {}
    for unit in units.values():
        kind = tuple(sorted(unit))
        pairings = tuple(sorted({min(divmod(c // 3, size)) * size + max(divmod(c // 3, size)) for c in kind}))
        kinds = strata.setdefault(pairings, {})
        kinds[kind] = kinds.get(kind, 0) + 1
    generator = np.random.default_rng(derive(seed, "ratings/bootstrap"))
    chunk = max(1, min(resamples, 8_000_000 // (3 * size * size)))
    samples = np.empty((resamples, size))
    for start in range(0, resamples, chunk):
        number = min(chunk, resamples - start)
        counts = np.zeros((number, size * size * 3))
        for pairings in sorted(strata):
            kinds = strata[pairings]
            ordered = sorted(kinds)
            frequency = np.array([kinds[kind] for kind in ordered], dtype=np.float64)
            drawn = generator.multinomial(int(frequency.sum()), frequency / frequency.sum(), size=number)
            for column, kind in enumerate(ordered):
                for game in kind:
                    counts[:, game] += drawn[:, column]
        fit = fit_elo(counts.reshape(number, size, size, 3), config)
        samples[start : start + number] = config.anchor_rating + ELO_SCALE * fit.parameters[:, :size] @ anchoring.T
    tail = (1.0 - config.confidence) / 2
    ahead = np.sign(samples[:, :, None] - samples[:, None, :])
    return BootstrapElo(
        players=games.players,
        samples=samples,
        intervals=np.quantile(samples, (tail, 1.0 - tail), axis=0).T,
        superiority=0.5 + ahead.mean(0) / 2,
    )
