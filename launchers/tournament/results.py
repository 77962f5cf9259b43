"""Results of a tournament: comparisons of players, ratings and payoff tables."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from marl.errors import InputError
from marl.games.game import PlayedGame
from marl.games.pairings import Matchup
from marl.launchers.tournament.cooperation import cross_play
from marl.ratings.alpha_rank import alpha_rank
from marl.ratings.bootstrap import bootstrap_elo
from marl.ratings.elo import EloConfig, elo_ratings
from marl.ratings.nash import nash_averaging
from marl.ratings.payoffs import Games, PayoffTable
from marl.ratings.plackett_luce import RankedGame, plackett_luce
from marl.ratings.sprt import SPRTConfig, SPRTResult, sprt
from marl.types import Floats

Scoring = Literal["game", "duplicate"]
Comparison = tuple[str, str, float, int]
"""First player, second player, score of the first (0, 0.5 or 1), and the unit that it belongs to."""


def comparisons(games: Iterable[PlayedGame], scoring: Scoring) -> list[Comparison]:
    """Every comparison of two players that the games allow.

    By ``game``, the sides of one game are compared with each other, by their places. By ``duplicate``, as in bridge,
    players are compared who took the same side of the same deal in different games of a unit: that is fair where
    sides are unlike each other (predators and prey). There a forfeit loses against anything, and in a game that was
    stopped at the step limit, all are equal; units that are not complete are left out.
    """
    if scoring == "game":
        return [
            (game.players[a], game.players[b], _score(-game.places[a], -game.places[b]), game.pair)
            for game in games
            for a, b in itertools.combinations(range(len(game.players)), 2)
        ]
    units: dict[int, list[PlayedGame]] = {}
    for game in games:
        units.setdefault(game.pair, []).append(game)
    compared = []
    for pair, unit in sorted(units.items()):
        sides = len(unit[0].players)
        if len(unit) < sides:
            continue
        for side in range(sides):
            values = sorted((game.players[side], _value(game, side)) for game in unit)
            compared += [
                (name, other, _score(value, theirs), pair)
                for (name, value), (other, theirs) in itertools.combinations(values, 2)
            ]
    return compared


def _value(game: PlayedGame, side: int) -> float:
    if game.ending == "finished":
        return round(game.returns[side], 9)
    if game.ending == "step_limit":
        return math.nan
    forfeited = {forfeit.player for forfeit in game.forfeits}
    return -math.inf if game.players[side] in forfeited else math.inf


def _score(mine: float, theirs: float) -> float:
    return 1.0 if mine > theirs else 0.0 if mine < theirs else 0.5


def sequential_test(
    matchup: Matchup, games: Mapping[int, PlayedGame], first_game: int, scoring: Scoring, config: SPRTConfig
) -> SPRTResult:
    """The test of a matchup of two, by its complete pairs up to the first that has not been played."""
    scores = []
    for start in range(first_game, first_game + 2 * (matchup.games // 2), 2):
        if start not in games or start + 1 not in games:
            break
        points = 0.0
        for first, _, score, _ in comparisons([games[start], games[start + 1]], scoring):
            points += score if first == matchup.players[0] else 1.0 - score
        scores.append(round(2 * points))
    return sprt(scores, config)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One player's line of the table."""

    player: str
    elo: float
    interval: tuple[float, float]
    """95 %: from the Fisher information where comparisons are independent games, else from the bootstrap."""
    fisher_interval: tuple[float, float]
    bootstrap_interval: tuple[float, float]
    games: int
    wins: int
    draws: int
    losses: int
    """Comparisons with one other player each: with two sides that is games (or, by duplicate, sides of pairs)."""
    score: float
    """Share of the points, a draw counting half."""
    mean_return: float
    """Of its side, a game."""
    return_interval: tuple[float, float]
    """95 %, normal approximation."""
    seats: dict[str, int]
    """Games by side."""
    seat_scores: dict[str, float | None]
    """Share of the points within games by side, null where it never sat there."""
    forfeits: dict[str, int]
    """By kind; they count as losses too."""
    step_limits: int
    """Games that were stopped; they count as draws too."""
    nash_share: float
    """Weight in the Nash average of all players."""
    nash_rating: float
    """Score against that average, from -1 to 1."""
    alpha_rank: float
    openskill: dict[str, float] | None
    """mu, sigma and ordinal (mu - 3 sigma), where games have more than two sides."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TournamentResults:
    """Standings, payoff tables and totals of a tournament."""

    standings: tuple[Standing, ...]
    """Best first, by Elo, or by mean return where the game is cooperative; equals in order of entry."""
    cooperative: bool
    """Whether the sides win and lose together, so that Elo says nothing."""
    players: tuple[str, ...]
    """In order of entry: the rows of the tables."""
    win_rates: Floats
    """(P, P) score of the row's player against the column's; NaN where they never met."""
    comparisons: Floats
    """(P, P) comparisons."""
    superiority: Floats
    """(P, P) probability that the row's player is stronger."""
    mean_returns: Floats
    """(P, P) mean return of the row's side where the column's player sits on another; NaN where they never met."""
    seat_advantage: float | None
    """Elo that the first side is worth; None where sides are not compared with each other."""
    seat_interval: tuple[float, float] | None
    draw_parameter: float
    games: int
    distinct_games: int
    """Different courses that games took: far fewer than games where players are deterministic."""
    step_limits: int
    forfeits: int


def tally(
    games: Sequence[PlayedGame],
    players: Sequence[str],
    sides: Sequence[str],
    scoring: Scoring,
    *,
    anchor: str | None = None,
    cooperative: bool = False,
    seed: int = 0,
    resamples: int = 1000,
) -> TournamentResults:
    """Ratings and tables of the games; a function of the games, not of their order.

    Args:
        games: that count.
        players: in order of entry.
        sides: names of the game's sides.
        scoring: see ``comparisons``.
        anchor: the player whose Elo is 0; None makes the mean 0.
        cooperative: rank by mean return; see ``is_cooperative``.
        seed: of the bootstrap.
        resamples: of the bootstrap.
    """
    ordered = sorted(games, key=lambda game: game.index)
    rows = comparisons(ordered, scoring)
    seated = scoring == "game" and len(sides) == 2
    config = EloConfig(anchor=anchor, seat_advantage=seated)
    compared = Games.from_rows(rows, players)
    counts = compared.counts()
    elo = elo_ratings(counts, players, config)
    resampled = bootstrap_elo(compared, config, seed=seed, resamples=resamples)
    table = PayoffTable(players)
    table.add(compared.first, compared.second, compared.outcome)
    payoff = table.antisymmetric_payoff()
    average = nash_averaging(payoff)
    alpha = alpha_rank(payoff)
    skills = _skills(ordered, players) if len(sides) > 2 else None
    met = table.games().astype(np.float64)
    wins = (counts[..., 2] + counts[..., 0].T).sum(1)
    draws = (counts[..., 1] + counts[..., 1].T).sum(1)
    losses = (counts[..., 0] + counts[..., 2].T).sum(1)
    standings = []
    for index, name in enumerate(players):
        total = int(wins[index] + draws[index] + losses[index])
        fisher = (float(elo.intervals[index, 0]), float(elo.intervals[index, 1]))
        bootstrap = (float(resampled.intervals[index, 0]), float(resampled.intervals[index, 1]))
        standings.append(
            Standing(
                player=name,
                elo=float(elo.ratings[index]),
                interval=fisher if seated else bootstrap,
                fisher_interval=fisher,
                bootstrap_interval=bootstrap,
                wins=int(wins[index]),
                draws=int(draws[index]),
                losses=int(losses[index]),
                score=float(wins[index] + draws[index] / 2) / total if total else 0.5,
                nash_share=float(average.mixture[index]),
                nash_rating=float(average.ratings[index]),
                alpha_rank=float(alpha.distribution[index]),
                openskill=None if skills is None else skills[name],
                **_game_statistics([game for game in ordered if name in game.players], name, sides),
            )
        )
    standings.sort(key=lambda standing: -round(standing.mean_return if cooperative else standing.elo, 6))
    return TournamentResults(
        standings=tuple(standings),
        cooperative=cooperative,
        players=tuple(players),
        win_rates=np.where(met > 0, table.win_rates(), np.nan),
        comparisons=met,
        superiority=elo.superiority if seated else resampled.superiority,
        mean_returns=cross_play(ordered, players),
        seat_advantage=elo.seat_advantage if seated else None,
        seat_interval=elo.seat_interval if seated else None,
        draw_parameter=elo.draw_parameter,
        games=len(ordered),
        distinct_games=len({(game.trace, game.players, game.returns) for game in ordered}),
        step_limits=sum(game.ending == "step_limit" for game in ordered),
        forfeits=sum(len(game.forfeits) for game in ordered),
    )


def _game_statistics(games: Sequence[PlayedGame], player: str, sides: Sequence[str]) -> dict[str, Any]:
    """The fields of a player's standing that its games give, without comparisons."""
    seats = {side: [game for game in games if game.players[s] == player] for s, side in enumerate(sides)}
    returns = [game.returns[game.players.index(player)] for game in games]
    mean = _mean(returns) or 0.0
    width = 1.96 * float(np.std(returns, ddof=1)) / math.sqrt(len(returns)) if len(returns) > 1 else 0.0
    return {
        "games": len(games),
        "mean_return": mean,
        "return_interval": (mean - width, mean + width),
        "seats": {side: len(there) for side, there in seats.items()},
        "seat_scores": {
            side: _mean([_points(game, game.players.index(player)) for game in there]) for side, there in seats.items()
        },
        "forfeits": {
            kind: sum(f.kind == kind and f.player == player for game in games for f in game.forfeits)
            for kind in ("crash", "timeout", "illegal")
        },
        "step_limits": sum(game.ending == "step_limit" for game in games),
    }


def _points(game: PlayedGame, side: int) -> float:
    """Share of the other sides that this one beat, a draw counting half."""
    others = [place for number, place in enumerate(game.places) if number != side]
    return sum(_score(-game.places[side], -place) for place in others) / len(others)


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def _skills(games: Sequence[PlayedGame], players: Sequence[str]) -> dict[str, dict[str, float]] | None:
    ranked = [
        RankedGame(index=game.index, teams=tuple((name,) for name in game.players), ranks=game.places) for game in games
    ]
    try:
        skills = plackett_luce(ranked, players)
    except InputError:
        return None
    rows = zip(skills.players, skills.mu.tolist(), skills.sigma.tolist(), skills.ordinal.tolist(), strict=True)
    return {name: {"mu": mu, "sigma": sigma, "ordinal": ordinal} for name, mu, sigma, ordinal in rows}


def results_json(results: TournamentResults) -> dict[str, Any]:
    """The results as ``results.json`` holds them: ``ratings`` best first, ``payoff`` and the rest."""
    return {
        "ranked_by": "mean_return" if results.cooperative else "elo",
        "ratings": [asdict(standing) for standing in results.standings],
        "payoff": {
            "players": list(results.players),
            "win_rates": _rows(results.win_rates),
            "comparisons": _rows(results.comparisons),
            "superiority": _rows(results.superiority),
            "mean_returns": _rows(results.mean_returns),
        },
        "seat_advantage": results.seat_advantage,
        "seat_interval": results.seat_interval,
        "draw_parameter": results.draw_parameter,
        "games": results.games,
        "distinct_games": results.distinct_games,
        "step_limits": results.step_limits,
        "forfeits": results.forfeits,
    }


def _rows(table: Floats) -> list[list[float | None]]:
    return [[None if math.isnan(value) else float(value) for value in row] for row in table.tolist()]
