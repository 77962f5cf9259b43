"""Games, their rules and results, and the environments that they are played in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from marl.errors import InputError
from marl.games.player import PlayerErrorKind
from marl.specs import EnvironmentSpec
from marl.types import Array, Integers, TimeStep

Ending = Literal["finished", "step_limit", "forfeit"]


class Arena(ABC):
    """E environments of one kind, begun with given seeds and stepped in any selection."""

    @property
    @abstractmethod
    def spec(self) -> EnvironmentSpec:
        """The agents, their observations and actions."""

    @property
    @abstractmethod
    def num_envs(self) -> int:
        """Number of environments, E."""

    @abstractmethod
    def begin(self, seeds: Sequence[int]) -> TimeStep:
        """Begins a new episode in the first ``len(seeds)`` environments.

        Returns:
            A time step of all E environments, whose tensors are kept up to date by ``step``.
        """

    @abstractmethod
    def step(self, envs: Integers, actions: Sequence[Array]) -> list[int]:
        """Takes one step (a turn, where the environment is turn-based) in some of the environments.

        Args:
            envs: (R,) ascending.
            actions: one array a group, (E, A, ...), as ``marl.types.Actions``; rows of other environments are ignored.

        Returns:
            The environments whose episode ended; rewards are those of the step, observations may be anything there.
        """

    def close(self) -> None:
        """Frees what the environments hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Game:
    """A game to be played."""

    index: int
    """Its global number; decisions' random numbers follow from it."""
    pair: int
    """Games of one pair share the environment's seed and the random opening moves, with seats exchanged."""
    players: tuple[str, ...]
    """The player of each side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forfeit:
    """A player that forfeited a game, and why."""

    player: str
    kind: PlayerErrorKind
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PlayedGame:
    """The result of a game."""

    index: int
    pair: int
    players: tuple[str, ...]
    """The player of each side."""
    returns: tuple[float, ...]
    """Undiscounted, summed over the agents of each side, up to the end or to the forfeit."""
    places: tuple[int, ...]
    """Of each side: how many did strictly better. A forfeit is worse than any return, a step limit makes all equal."""
    length: int
    """Steps that were taken, turns where the environment is turn-based."""
    ending: Ending
    forfeits: tuple[Forfeit, ...] = ()
    trace: int = 0
    """A hash of all actions: equal for games that went the same way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GameRules:
    """Rules of all games, whoever plays."""

    seed: int = 0
    """From which all games follow."""
    max_steps: int = 2000
    """A game that has not ended by then is a draw."""
    move_seconds: float = 30.0
    """A player that takes longer for a decision forfeits; 0 for no limit. A shared forward pass has one limit."""
    random_opening_moves: int = 0
    """So many first steps are random legal ones, equal in the games of a pair: deterministic players then play
    different games."""

    def __post_init__(self) -> None:
        if self.max_steps < 1:
            raise InputError(f"max_steps is at least 1, not {self.max_steps}")
        if not self.move_seconds >= 0.0:
            raise InputError(f"move_seconds is at least 0, not {self.move_seconds}")
        if self.random_opening_moves < 0:
            raise InputError(f"random_opening_moves is at least 0, not {self.random_opening_moves}")
