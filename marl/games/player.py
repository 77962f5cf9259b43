"""Player."""

from __future__ import annotations

import signal
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Final, Literal

from torch import Tensor

from marl.specs import EnvironmentSpec
from marl.types import Array, Bools, Integers, TimeStep

PlayerErrorKind = Literal["crash", "timeout", "illegal"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlayerError:
    """Why a player forfeits a game."""

    board: int
    kind: PlayerErrorKind
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What one player is asked at one step."""

    boards: Integers
    """(R,) ascending: where it is asked."""
    step: TimeStep
    """Of all E boards."""
    must_act: Bools
    """(R, N) which of the N agents (group after group) it has to decide for."""
    first: bool
    """Whether the boards' episodes begin at this step."""
    uniforms: Tensor | None
    """(R, N, k) in (0, 1), k at least the player's ``num_uniforms``; None where nobody needs any."""
    actions: Sequence[Array]
    """One array a group, (E, A, ...): where the decisions go."""
    move_seconds: float


class Player(ABC):
    """Somebody who decides for one side on many boards at once."""

    num_uniforms: int = 0
    """Uniform random numbers that one agent's decision needs."""
    remembers: bool = False
    """Must be asked at every step of its games, also where none of its agents is to act."""

    def begin(self, spec: EnvironmentSpec, boards: int, owned: Bools, seeds: Sequence[int]) -> None:
        """Begins games on all boards.

        Args:
            spec: of the boards' environment.
            boards: number of games, E.
            owned: (E, N) which agents it plays.
            seeds: (E,) a number of its own for each game.
        """

    @abstractmethod
    def act(self, turn: Turn) -> list[PlayerError]:
        """Decides, writes the actions into ``turn.actions``, and tells on which boards it failed to."""


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


def _fault(board: int, error: BaseException, seconds: float) -> PlayerError:
    if isinstance(error, TimeUp):
        return PlayerError(board=board, kind="timeout", detail=f"no decision within {seconds:g} s")
    text = " ".join(str(error).split())[:200]
    return PlayerError(
        board=board, kind="crash", detail=f"{type(error).__name__}: {text}" if text else type(error).__name__
    )


_PLAYERS_OWN: Final = (Exception, SystemExit, TimeUp)
"""What a player may raise and only lose by; not KeyboardInterrupt, which is ours."""
