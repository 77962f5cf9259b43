"""Gains of learned best responses to trained policies: a lower bound of their exploitability, in any game."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from marl.envs.factory import make_constructor
from marl.envs.pettingzoo.arena import PettingZooArena
from marl.envs.preprocessing import preprocessed
from marl.errors import InputError
from marl.experiments.config import ExperimentConfig
from marl.games.batch import play_games
from marl.games.game import Game, GameRules
from marl.games.player import Player
from marl.games.policy_players import PolicyPlayer
from marl.games.sides import Sides
from marl.launchers.console import print_progress, require_positive
from marl.launchers.run.catalog import find_algorithm
from marl.launchers.run.choices import Backend
from marl.launchers.run.policy_sources import TrainedPolicies
from marl.launchers.run.settings import environment_of, read_env_kwargs
from marl.random_streams import derive_int
from marl.self_play.best_response import Gains, learn_response, measure_gains
from marl.specs import EnvironmentSpec
from marl.types import Floats

_BOARDS = 64


@dataclass(frozen=True, kw_only=True)
class ResponseSettings:
    """Settings by which best responses are learned and measured."""

    algorithm: str = "ippo"
    """The algorithm that learns them."""
    num_envs: int = 64
    """Environments that are stepped at once."""
    games: int = 4000
    """Deals that are played with and without each response."""
    max_steps: int = 2000
    """A game that has not ended by then is stopped; its returns count."""
    seed: int = 0
    """From which all random numbers follow."""
    backend: Backend = "pettingzoo"
    """The backend on which responses learn."""

    def check(self) -> None:
        """Raises InputError where a number makes no sense."""
        require_positive(num_envs=self.num_envs, games=self.games - 1, max_steps=self.max_steps)
        if self.seed < 0:
            raise InputError(f"--response.seed cannot be negative, got {self.seed}")
        find_algorithm(self.algorithm)


def exploit(trained: TrainedPolicies, steps: int, settings: ResponseSettings) -> tuple[tuple[str, ...], Gains]:
    """Learns a best response on each side of a game, and measures what it gains.

    Args:
        trained: the policies to be exploited.
        steps: environment steps of each response.
        settings: of learning and measuring.

    Returns:
        The names of the sides, and the gains.

    Raises:
        InputError: the algorithm cannot learn in this game, or the game has one side only.
    """
    settings.check()
    variant = find_algorithm(settings.algorithm)
    config = replace(variant.default_config(), sharing=trained.settings.algorithm.sharing)
    builder = variant.build(config)
    environment = environment_of(trained.env, replace(trained.settings, backend=settings.backend))
    make = preprocessed(
        make_constructor(trained.env, read_env_kwargs(trained.settings.env_kwargs)), trained.settings.preprocessing
    )
    sides = Sides(trained.spec, trained.teams)
    arena = PettingZooArena(make, min(_BOARDS, settings.games))
    try:
        games = _PairedGames(arena, trained.spec, sides, settings)
        columns = []
        for side in range(len(sides)):
            spec, response = learn_response(
                ExperimentConfig(
                    builder=builder,
                    environment=environment,
                    seed=derive_int(settings.seed, "response", side),
                    steps=steps,
                    num_envs=settings.num_envs,
                    evaluation_episodes=0,
                ),
                trained.policies,
                side,
                progress=print_progress(),
                teams=trained.teams,
            )
            columns.append(games.returns(trained.policies, spec, response, side)[:, side])
        own = games.returns(trained.policies, trained.spec, None, None)
    finally:
        arena.close()
    return sides.names, measure_gains(own, np.stack(columns, axis=1))


class _PairedGames:
    """The same deals, played with a response on one side or without."""

    def __init__(self, arena: PettingZooArena, spec: EnvironmentSpec, sides: Sides, settings: ResponseSettings) -> None:
        self._arena, self._spec, self._sides, self._settings = arena, spec, sides, settings
        self._progress = print_progress()

    def returns(self, policies: Any, spec: EnvironmentSpec, response: Any, side: int | None) -> Floats:
        """(G, S) returns of the sides, with a response on one of them, or with none."""
        players: dict[str, Player] = {"policies": PolicyPlayer(self._spec, policies)}
        seating = ["policies"] * len(self._sides)
        if side is not None:
            players["response"] = PolicyPlayer(spec, response)
            seating[side] = "response"
        rules = GameRules(seed=self._settings.seed, max_steps=self._settings.max_steps, move_seconds=0.0)
        count, rows = self._settings.games, []
        first = 0 if side is None else (side + 1) * count
        for start in range(0, count, self._arena.num_envs):
            pairs = range(start, min(start + self._arena.num_envs, count))
            games = [Game(index=first + pair, pair=pair, players=tuple(seating)) for pair in pairs]
            played = play_games(
                self._arena, self._sides, players, games, rules, purpose="response", progress=self._progress
            )
            for game in played:
                if game.forfeits:
                    raise InputError(f"a policy failed: {game.forfeits[0].detail}")
                rows.append(game.returns)
        return np.array(rows, dtype=np.float64)
