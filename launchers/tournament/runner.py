"""The course of a tournament: matchups, their batches of games, and the ranks that play them."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from marl.core import Communicator
from marl.distributed.broadcast import from_root
from marl.envs.factory import make_constructor
from marl.envs.pettingzoo.arena import PettingZooArena
from marl.envs.preprocessing import Preprocessing, preprocessed
from marl.errors import InputError
from marl.games.batch import play_games
from marl.games.game import Game, PlayedGame
from marl.games.pairings import (
    Matchup,
    batches_of,
    check_entries,
    gauntlet,
    round_robin,
    swiss_round,
    swiss_rounds,
)
from marl.games.player import Player
from marl.games.sides import Sides, read_teams, sides_are_alike
from marl.launchers.run.saved_league import SavedLeague
from marl.launchers.run.settings import read_env_kwargs
from marl.launchers.tournament.checks import game_rules
from marl.launchers.tournament.contestants import Contestant, Entry, load_contestant, refuse_other_environments
from marl.launchers.tournament.games_file import GamesFile
from marl.launchers.tournament.options import TournamentOptions
from marl.launchers.tournament.results import Scoring, comparisons, sequential_test
from marl.ratings.sprt import SPRTConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class TournamentRunner:
    """A tournament ready to begin: environments, players, rules."""

    options: TournamentOptions
    arena: PettingZooArena
    sides: Sides
    scoring: Scoring
    contestants: tuple[Contestant, ...]
    players: dict[str, Player]
    config: dict[str, Any] = field(default_factory=dict)
    """The content of ``config.json``: all that decides the results."""

    @classmethod
    def prepare(
        cls, options: TournamentOptions, entries: Sequence[Entry], saved: dict[str, Any] | None
    ) -> TournamentRunner:
        """Loads the players and makes the environments.

        Raises:
            InputError: a player does not fit the environment, or the environment is no game for these players.
        """
        known = {} if saved is None else saved.get("players", {})
        leagues: dict[Path, SavedLeague] = {}
        contestants = tuple(
            load_contestant(
                entry,
                leagues=leagues,
                action_selection=options.action_selection,
                env_kwargs=options.env_kwargs,
                checkpoint=known.get(entry.name, {}).get("checkpoint") or None
                if known.get(entry.name, {}).get("source") == entry.source
                else None,
            )
            for entry in entries
        )
        refuse_other_environments(contestants, options.env)
        env_kwargs = read_env_kwargs(_common(contestants, "env_kwargs", options.env_kwargs or "{}"))
        processing: Preprocessing = _common(contestants, "preprocessing", Preprocessing())
        make = preprocessed(make_constructor(options.env, env_kwargs), processing)
        arena = PettingZooArena(make, min(options.boards, options.games))
        try:
            sides = Sides(arena.spec, read_teams(options.teams))
            check_entries([entry.name for entry in entries], len(sides), options.games)
            if options.sprt is not None and len(sides) != 2:
                raise InputError(f"--sprt compares two players, but the game has {len(sides)} sides")
            scoring: Scoring = "duplicate" if options.scoring == "duplicate" else "game"
            if options.scoring == "auto" and not sides_are_alike(arena.spec, sides):
                scoring = "duplicate"
            players = {one.entry.name: one.player(arena.spec) for one in contestants}
        except BaseException:
            arena.close()
            raise
        ignored = {"players", "out", "resume", "ranks", "teams", "anchor", "env_kwargs", "scoring"}
        ignored |= {"wandb", "wandb_project"}
        config = {
            "kind": "tournament",
            **{name: value for name, value in asdict(options).items() if name not in ignored},
            "env_kwargs": env_kwargs,
            "preprocessing": asdict(processing),
            "players": {one.entry.name: one.describe() for one in contestants},
            "sides": {name: list(agents) for name, agents in zip(sides.names, sides.agents, strict=True)},
            "scoring": scoring,
        }
        return cls(
            options=options,
            arena=arena,
            sides=sides,
            scoring=scoring,
            contestants=contestants,
            players=players,
            config=json.loads(json.dumps(config)),
        )

    @property
    def names(self) -> list[str]:
        """The players' names in order of entry."""
        return [one.entry.name for one in self.contestants]

    def run(self, communicator: Communicator, file: GamesFile) -> list[PlayedGame]:
        """Plays what is missing and returns the games that count, on rank 0; the others get none."""
        rules = game_rules(self.options)
        played: dict[int, PlayedGame] = {}

        def plan_next() -> list[list[Any]]:
            nonlocal played
            played = file.read()
            file.rewrite(played)
            return self._plan(played, communicator.size)

        while plan := from_root(communicator, plan_next):
            progress = _Progress(file, self.options, quiet=communicator.rank != 0)
            for number, players, batch, known in plan[communicator.rank :: communicator.size]:
                matchup = Matchup(number=number, players=tuple(players), games=self.options.games)
                games = self._batches(matchup)[batch]
                results = play_games(
                    self.arena,
                    self.sides,
                    self.players,
                    games,
                    rules,
                    purpose="tournament",
                    progress=progress.playing,
                )
                file.append(game for game in results if game.index not in known)
                progress.tell()
            # No rank plans before all have written.
            communicator.all_reduce(torch.zeros(1, dtype=torch.int64))
        return self._counted(played) if communicator.rank == 0 else []

    def _plan(self, played: dict[int, PlayedGame], ranks: int) -> list[list[Any]]:
        """Batches to play next, as (matchup, its players, batch, games of it that are known), in order.

        A batch that was written in part is played once more as a whole, since only that gives the same games.
        """
        matchups = self.matchups(played)
        self._check(matchups, played)
        missing = [
            [number for number, games in enumerate(batches) if any(game.index not in played for game in games)]
            for batches in (self._batches(matchup) for matchup in matchups)
        ]
        if self.options.sprt is not None:
            undecided = [
                number for number, batches in enumerate(missing) if batches and not self._decided(number, played)
            ]
            few = -(-ranks // max(1, len(undecided)))
            missing = [batches[:few] if number in undecided else [] for number, batches in enumerate(missing)]
        return [
            [
                matchup.number,
                list(matchup.players),
                batch,
                [game.index for game in self._batches(matchup)[batch] if game.index in played],
            ]
            for matchup, batches in zip(matchups, missing, strict=True)
            for batch in batches
        ]

    def _batches(self, matchup: Matchup) -> list[tuple[Game, ...]]:
        return batches_of(
            matchup,
            first_game=self._first_game(matchup.number),
            first_unit=matchup.number * matchup.units,
            most=self.options.boards,
        )

    def _first_game(self, matchup: int) -> int:
        return matchup * self.options.games

    def matchups(self, played: dict[int, PlayedGame]) -> list[Matchup]:
        """All matchups that follow from what was played: in a Swiss tournament, up to the round that is going on."""
        names, sides, games = self.names, len(self.sides), self.options.games
        if self.options.format != "swiss":
            pair_up = gauntlet if self.options.format == "gauntlet" else round_robin
            return [
                Matchup(number=number, players=chosen, games=games)
                for number, chosen in enumerate(pair_up(names, sides))
            ]
        matchups: list[Matchup] = []
        met: dict[frozenset[str], int] = {}
        byes: dict[str, int] = {}
        for number in range(self.options.rounds or swiss_rounds(len(names), sides)):
            done = [played[index] for index in range(len(matchups) * games) if index in played]
            if len(done) < len(matchups) * games:
                break
            chosen = swiss_round(names, sides, _mean_scores(done, self.scoring), met, byes)
            matchups += [
                Matchup(number=len(matchups) + place, players=players, games=games, round=number)
                for place, players in enumerate(chosen)
            ]
            seated = {name for players in chosen for name in players}
            for name in names:
                byes[name] = byes.get(name, 0) + (name not in seated)
            for players in chosen:
                for index, one in enumerate(players):
                    for other in players[index + 1 :]:
                        met[frozenset((one, other))] = met.get(frozenset((one, other)), 0) + 1
        return matchups

    def _check(self, matchups: Sequence[Matchup], played: dict[int, PlayedGame]) -> None:
        scheduled = {game.index: game for matchup in matchups for games in self._batches(matchup) for game in games}
        for index, game in played.items():
            if index not in scheduled or scheduled[index].players != game.players:
                raise InputError(f"games.jsonl holds game {index} of another tournament; choose another --out")

    def _decided(self, matchup: int, played: dict[int, PlayedGame]) -> bool:
        assert self.options.sprt is not None
        config = SPRTConfig(elo0=self.options.sprt[0], elo1=self.options.sprt[1])
        found = self.matchups(played)[matchup]
        first = self._first_game(matchup)
        return sequential_test(found, played, first, self.scoring, config).decision is not None

    def tests(self, played: dict[int, PlayedGame]) -> dict[int, dict[str, Any]]:
        """The sequential test of each matchup, by its number; empty without ``--sprt``."""
        if self.options.sprt is None:
            return {}
        config = SPRTConfig(elo0=self.options.sprt[0], elo1=self.options.sprt[1])
        tests = {}
        for matchup in self.matchups(played):
            first = self._first_game(matchup.number)
            result = sequential_test(matchup, played, first, self.scoring, config)
            tests[matchup.number] = {"players": list(matchup.players), **asdict(result)}
        return tests

    def _counted(self, played: dict[int, PlayedGame]) -> list[PlayedGame]:
        """All games, but of a matchup that was decided early only those up to the decision.

        How many more were under way then depends on the number of ranks.
        """
        beyond: set[int] = set()
        for number, test in self.tests(played).items():
            if test["decision"] is not None:
                first = self._first_game(number)
                beyond |= set(range(first + 2 * test["used"], first + self.options.games))
        return [played[index] for index in sorted(played) if index not in beyond]


class _Progress:
    """Says every five seconds how many games were played: after each batch, and while a long one is played."""

    def __init__(self, file: GamesFile, options: TournamentOptions, *, quiet: bool) -> None:
        self._file, self._quiet, self._printed = file, quiet, time.monotonic()
        self._out = options.out

    def tell(self) -> None:
        if self._due():
            print(f"{self._file.count()} games played", flush=True)

    def playing(self, what: str, done: int, total: int) -> None:
        if self._due():
            print(f"{self._file.count()} games played, {done} of {total} in this batch", flush=True)

    def _due(self) -> bool:
        now = time.monotonic()
        if self._quiet or now - self._printed <= 5.0:
            return False
        self._printed = now
        return True


def _common(contestants: Sequence[Contestant], name: str, otherwise: Any) -> Any:
    """The setting in which all runs agree; what is given where there is no run."""
    found = [(one.entry.name, getattr(one.run.settings, name)) for one in contestants if one.run is not None]
    for player, value in found[1:]:
        if value != found[0][1]:
            raise InputError(
                f"players {found[0][0]} and {player} were trained with different {name.replace('_', '-')}: "
                f"{found[0][1]} and {value}"
                + ("; say with --env-kwargs what is to be played" if name == "env_kwargs" else "")
            )
    return found[0][1] if found else otherwise


def _mean_scores(games: Sequence[PlayedGame], scoring: Scoring) -> dict[str, float]:
    points: dict[str, list[float]] = {}
    for first, second, score, _ in comparisons(games, scoring):
        points.setdefault(first, []).append(score)
        points.setdefault(second, []).append(1.0 - score)
    return {name: sum(scores) / len(scores) for name, scores in points.items()}
