"""The schedule of a tournament: round robin, gauntlet and Swiss rounds, and the games of each matchup.

All functions are pure: a schedule follows from the players and from results that everybody agrees on.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from marl.errors import InputError
from marl.games.game import Game


@dataclass(frozen=True, slots=True, kw_only=True)
class Matchup:
    """Players that meet for a number of games: one for each side of the game."""

    number: int
    """Counts all matchups of the tournament, from 0."""
    players: tuple[str, ...]
    games: int
    """Number of games, at most."""
    round: int = 0

    @property
    def units(self) -> int:
        """Number of pairs of games (triples with three sides, and so on): the games of one seed."""
        return -(-self.games // len(self.players))

    def schedule(self, *, first_game: int, first_unit: int) -> Iterator[Game]:
        """The games in order.

        The games of a unit share a seed, and every player takes every side once; so at any time each player has
        had each side equally often, but for one game. With three sides or more, every other unit goes around the
        table in the other direction.

        Args:
            first_game: number of the first game.
            first_unit: number of the first unit.
        """
        sides = len(self.players)
        for number in range(self.games):
            unit, shift = divmod(number, sides)
            around = self.players[::-1] if sides > 2 and unit % 2 else self.players
            players = tuple(around[(side + shift) % sides] for side in range(sides))
            yield Game(index=first_game + number, pair=first_unit + unit, players=players)


def check_entries(players: Sequence[str], sides: int, games: int) -> None:
    """InputError where so many players cannot hold a tournament of a game with so many sides."""
    if games < 1:
        raise InputError(f"--games must be at least 1, got {games}")
    if len(players) < sides:
        raise InputError(
            f"the game has {sides} sides, but there are {len(players)} players; add players (a run may enter under "
            "two names), or put agents together with --teams"
        )


def round_robin(players: Sequence[str], sides: int) -> list[tuple[str, ...]]:
    """Every choice of as many players as there are sides, once."""
    return list(itertools.combinations(players, sides))


def gauntlet(players: Sequence[str], sides: int) -> list[tuple[str, ...]]:
    """The first player meets all others; they do not meet without it."""
    first, *others = players
    return [(first, *rest) for rest in itertools.combinations(others, sides - 1)]


def swiss_rounds(players: int, sides: int) -> int:
    """Rounds that a Swiss tournament needs until one player may have won everything: the logarithm of the players."""
    rounds, left = 0, players
    while left > 1:
        left = -(-left // sides)
        rounds += 1
    return max(rounds, 1)


def swiss_round(
    players: Sequence[str],
    sides: int,
    scores: Mapping[str, float],
    met: Mapping[frozenset[str], int],
    byes: Mapping[str, int],
) -> list[tuple[str, ...]]:
    """The matchups of the next Swiss round: players of similar scores, who met as seldom as possible.

    From the best to the worst, each player who is left is put together with those closest below, among them first
    those that met each other least. Whoever is left over sits the round out: the lowest of those who did so least.

    Args:
        players: the P players, in the order of their entry, which breaks ties.
        sides: players of one matchup, S.
        scores: mean score a game of each, so that sitting out neither helps nor hurts.
        met: number of matchups of two players.
        byes: number of rounds that each sat out.

    Returns:
        floor(P / S) matchups.
    """
    order = sorted(players, key=lambda name: (-scores.get(name, 0.0), players.index(name)))
    idle = sorted(order, key=lambda name: (byes.get(name, 0), -order.index(name)))[: len(players) % sides]
    left = [name for name in order if name not in idle]
    if sides == 2:
        return _pair_off(left, met)
    matchups = []
    while left:
        table = [left.pop(0)]
        while len(table) < sides:
            seldom = min(left, key=lambda name: sum(met.get(frozenset((name, o)), 0) for o in table))
            left.remove(seldom)
            table.append(seldom)
        matchups.append(tuple(table))
    return matchups


def _pair_off(order: Sequence[str], met: Mapping[frozenset[str], int]) -> list[tuple[str, ...]]:
    """Pairs neighbours, going back where that leaves only players who met more often than necessary."""
    for limit in itertools.count():
        tries = itertools.count()

        def search(
            left: Sequence[str], limit: int = limit, tries: Iterator[int] = tries
        ) -> list[tuple[str, ...]] | None:
            if not left:
                return []
            for index in range(1, len(left)):
                # A search that takes too long gives way to one that allows one more matchup.
                if next(tries) > 20_000:
                    return None
                if met.get(frozenset((left[0], left[index])), 0) <= limit:
                    rest = search([*left[1:index], *left[index + 1 :]])
                    if rest is not None:
                        return [(left[0], left[index]), *rest]
            return None

        found = search(order)
        if found is not None:
            return found
    raise AssertionError("some limit lets everybody meet")


def batches_of(matchup: Matchup, *, first_game: int, first_unit: int, most: int = 64) -> list[tuple[Game, ...]]:
    """The games of a matchup in batches of whole units, as even as possible and of at most ``most`` games."""
    sides = len(matchup.players)
    games = tuple(matchup.schedule(first_game=first_game, first_unit=first_unit))
    count = -(-matchup.units // max(1, most // sides))
    limits = [sides * (matchup.units * number // count) for number in range(count + 1)]
    return [games[start:stop] for start, stop in itertools.pairwise(limits)]
