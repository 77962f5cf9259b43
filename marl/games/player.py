"""The interface of players, their decisions, and what happens where a player's own code fails."""

from __future__ import annotations

import signal
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Literal, TypeVar

from torch import Tensor

from marl.specs import EnvironmentSpec
from marl.types import Array, Bools, Integers, TimeStep

PlayerErrorKind = Literal["crash", "timeout", "illegal"]
ResultT = TypeVar("ResultT")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlayerError:
    """The reason why a player forfeits a game."""

    game: int
    """Its index in the batch."""
    kind: PlayerErrorKind
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionRequest:
    """A request to one player for its decisions at one step of many games."""

    games: Integers
    """(R,) ascending: the games in which it has to decide, by their index in the batch."""
    step: TimeStep
    """Of all E environments; game i is played in environment i."""
    must_act: Bools
    """(R, N) which of the N agents (group after group) it has to decide for."""
    first: bool
    """Whether the games' episodes begin at this step."""
    uniforms: Tensor | None
    """(R, N, k) in (0, 1), k at least the player's ``num_uniforms``; None where nobody needs any."""
    actions: Sequence[Array]
    """One array a group, (E, A, ...): where the decisions go."""
    move_seconds: float


class Player(ABC):
    """Decides for sides of many games at once."""

    num_uniforms: int = 0
    """Uniform random numbers that one agent's decision needs."""
    remembers: bool = False
    """Must be asked at every step of its games, also where none of its agents is to act."""

    def begin(self, spec: EnvironmentSpec, num_games: int, owned: Bools, seeds: Sequence[int]) -> None:
        """Begins a batch of games.

        Args:
            spec: of the environment.
            num_games: G, in the batch.
            owned: (G, N) which agents it plays; in some games it may play none.
            seeds: (G,) a number of its own for each game.
        """

    @abstractmethod
    def act(self, request: DecisionRequest) -> list[PlayerError]:
        """Writes actions into ``request.actions``, and returns an error for each game in which it failed to."""


class TimeUp(BaseException):
    """A decision took too long. Not an Exception, so that a player's own handlers let it pass."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raises TimeUp within, once the time is up; 0 is no limit.

    It interrupts Python, not a call into compiled code that does not come back; and works in the main thread only,
    elsewhere there is no limit.
    """
    if seconds <= 0.0 or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGALRM, _time_up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


def _time_up(number: int, frame: FrameType | None) -> None:
    raise TimeUp


def call_player(function: Callable[[], ResultT], game: int, seconds: float) -> ResultT | PlayerError:
    """Calls a player's own code.

    Args:
        function: the call.
        game: in which the player decides, by its index in the batch.
        seconds: the time limit; 0 for none.

    Returns:
        What the function returned, or the error where it raised or took too long. A KeyboardInterrupt is the user's,
        and goes through.
    """
    try:
        with time_limit(seconds):
            return function()
    except TimeUp:
        return PlayerError(game=game, kind="timeout", detail=f"no decision within {seconds:g} s")
    except (Exception, SystemExit) as error:
        text = " ".join(str(error).split())[:200]
        detail = f"{type(error).__name__}: {text}" if text else type(error).__name__
        return PlayerError(game=game, kind="crash", detail=detail)
