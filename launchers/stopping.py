"""Requests to stop: signals that a process notes, and answers when it can."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any, Final

EARLY: Final = (signal.SIGUSR1,)
"""What a command that trains notes from its first moment on: unheard, the signal would end it."""
STOPPED: Final = 75
"""The exit code of what was stopped and can be resumed."""
ALL: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class StopRequest:
    """Turns the first SIGINT, SIGTERM or SIGUSR1 into a request to stop; a second one, unless SIGUSR1, interrupts.

    Installed with ``with``, in the main thread; elsewhere it does nothing. What one that was installed before has
    heard counts as heard.

    Args:
        numbers: the signals.
    """

    def __init__(self, numbers: tuple[signal.Signals, ...] = ALL) -> None:
        self._numbers = numbers
        self._asked = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in self._numbers:
                self._before[number] = signal.signal(number, self)
                self._asked |= was_asked(self._before[number])
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            # Whoever took over, for the process's last moments perhaps, keeps it.
            if signal.getsignal(number) is self:
                signal.signal(number, handler)

    def asked(self) -> bool:
        """Whether somebody asked."""
        return self._asked

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """The signal handler."""
        if self._asked and number != signal.SIGUSR1:
            raise KeyboardInterrupt
        self._asked = True


def was_asked(handler: Any) -> bool:
    """Whether a signal handler is a StopRequest that has heard its signal."""
    return isinstance(handler, StopRequest) and handler.asked()
