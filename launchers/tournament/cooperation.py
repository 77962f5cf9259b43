"""Cooperative games in tournaments: the sides win and lose together, so nobody is better within a game."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from marl.games.game import PlayedGame
from marl.types import Floats

_APART: Final = 0.1
"""Variance of returns within games, as a share of that between games, below which sides have a common cause."""


def is_cooperative(games: Sequence[PlayedGame]) -> bool:
    """Returns whether the sides' returns rise and fall together.

    That is so if returns hardly differ within a game by what they differ between games (``simple_spread`` adds
    collisions of one's own to a common reward), or where all sides have the same in all games, other than nothing.
    """
    finished = [game.returns for game in games if game.ending == "finished"]
    if not finished:
        return False
    returns = np.array(finished)
    within, between = float(returns.var(1).mean()), float(returns.mean(1).var())
    same = bool(np.ptp(returns, axis=1).max() <= 1e-6 * np.abs(returns).max())
    return bool(within < _APART * between) or (same and bool(returns.any()))


def cross_play(games: Sequence[PlayedGame], players: Sequence[str]) -> Floats:
    """Mean return of the row's side where the column's player sits on another: (P, P), NaN where they never met."""
    number = {name: index for index, name in enumerate(players)}
    sums, counts = np.zeros((2, len(players), len(players)))
    for game in games:
        for side, name in enumerate(game.players):
            for other in {number[one] for place, one in enumerate(game.players) if place != side}:
                sums[number[name], other] += game.returns[side]
                counts[number[name], other] += 1
    table: Floats = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
    return table
