"""Plackett-Luce ratings of games of any number of sides."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from marl.errors import InputError
from marl.types import Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedGame:
    """One game of two or more sides, each a player or a team of several."""

    index: int
    """The game's global number: games are rated in this order, however they arrived."""
    teams: tuple[tuple[str, ...], ...]
    """The players of each side."""
    ranks: tuple[float, ...]
    """Place of each side, lower is better; equal places are a draw."""

    def __post_init__(self) -> None:
        names = [name for team in self.teams for name in team]
        if len(self.teams) < 2 or len(self.ranks) != len(self.teams) or not all(self.teams):
            raise InputError(f"game {self.index} needs two or more sides, each with players and a rank")
        if len(set(names)) != len(names):
            raise InputError(f"a player takes two places in game {self.index}; a rated game needs distinct players")


@dataclass(frozen=True, slots=True, kw_only=True)
class SkillRatings:
    """Normal beliefs about P players' skills."""

    players: tuple[str, ...]
    mu: Floats
    """(P,) mean."""
    sigma: Floats
    """(P,) standard deviation."""
    ordinal: Floats
    """(P,) mu - 3 sigma, the conservative estimate that leaderboards sort by."""


def plackett_luce(games: Sequence[RankedGame], players: Sequence[str] | None = None) -> SkillRatings:
    """Plackett-Luce ratings of n-player and team games (Weng and Lin 2011, JMLR 12:267, Algorithm 4).

    Needs the package openskill. Unlike ``elo_ratings`` this is an online rule, so games are taken in the order
    of their numbers.

    Args:
        games: any order.
        players: all players; by default those that occur, sorted.

    Raises:
        InputError: openskill is not installed, two games have the same number, or one names an unknown player.
    """
    try:
        from openskill.models import PlackettLuce
    except ImportError:
        raise InputError("ratings of n-player games need openskill: pip install 'marl[games]'") from None
    ordered = sorted(games, key=lambda game: game.index)
    if repeated := [b.index for a, b in itertools.pairwise(ordered) if a.index == b.index]:
        raise InputError(f"two games have the number {repeated[0]}")
    names = sorted({name for game in ordered for team in game.teams for name in team})
    if players is not None:
        if unknown := sorted(set(names) - set(players)):
            raise InputError(f"a game names {unknown[0]}, but the players are {', '.join(players)}")
        names = list(players)
    model = PlackettLuce()
    beliefs = {name: model.rating(name=name) for name in names}
    for game in ordered:
        rated = model.rate([[beliefs[name] for name in team] for team in game.teams], ranks=list(game.ranks))
        for team, after in zip(game.teams, rated, strict=True):
            beliefs.update(zip(team, after, strict=True))
    mu = np.array([beliefs[name].mu for name in names], dtype=np.float64)
    sigma = np.array([beliefs[name].sigma for name in names], dtype=np.float64)
    return SkillRatings(players=tuple(names), mu=mu, sigma=sigma, ordinal=mu - 3.0 * sigma)
