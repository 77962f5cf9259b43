"""Requests to stop: signals that a process counts, and answers at the next update; and ends that nobody asked for."""

from __future__ import annotations

import signal
import threading
import traceback
from types import FrameType
from typing import Any, Final

STOPPED: Final = 75
"""The exit code of a run that was stopped and can be resumed."""
_MEANINGFUL: Final = (0, 2, STOPPED)
STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
EARLY: Final = (signal.SIGUSR1,)
"""Handled by a command that trains from its first moment on: without a handler, the signal would end it."""


class StopRequest:
    """Handles the first SIGINT, SIGTERM or SIGUSR1 as a request to stop; a second one, unless SIGUSR1, interrupts.

    A context manager that installs signal handlers, in the main thread; elsewhere it does nothing. A request that the
    handler installed before has received counts as received.

    Args:
        signals: the signals to handle.

    Attributes:
        requests: the number of requests so far.
    """

    def __init__(self, signals: tuple[signal.Signals, ...] = STOP_SIGNALS) -> None:
        self._signals = signals
        self._previous: dict[signal.Signals, Any] = {}
        self.requests = 0

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in self._signals:
                self._previous[number] = signal.signal(number, self)
            self.requests += any(map(was_asked, self._previous.values()))
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            # A handler that was installed since, for the process's last moments perhaps, stays.
            if signal.getsignal(number) is self:
                signal.signal(number, handler)

    def asked(self) -> bool:
        """Returns whether a stop was requested."""
        return self.requests > 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handles a signal."""
        self.requests += 1
        self._answer(number)

    def _answer(self, number: int) -> None:
        if self.requests > 1 and number != signal.SIGUSR1:
            raise KeyboardInterrupt


def was_asked(handler: Any) -> bool:
    """Returns whether a signal handler is a StopRequest that has received a request."""
    return isinstance(handler, StopRequest) and handler.asked()


def explain_exit(error: SystemExit) -> tuple[int, str]:
    """Returns the exit code and a line for a SystemExit that is not marl's own; codes that mean something become 1."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    text = f"{place.filename}, line {place.lineno}, called sys.exit({error.code!r}) before the work was done"
    return error.code if isinstance(error.code, int) and error.code not in _MEANINGFUL else 1, text
