"""Signals."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from marl.launchers.stopping import ALL, was_asked


class Stop:
    """Passes signals on to mpirun: first a request to stop at the next update, then an order.

    Installed with ``with``, in the main thread; elsewhere it does nothing. One may serve several jobs in turn.

    Args:
        listens: whether the ranks hear a request by now. Before, mpirun would lose it, or die of it; and as nothing
            was done that could be lost, the job is ended instead.
    """

    def __init__(self, listens: Callable[[], bool] = lambda: True) -> None:
        self._listens = listens
        self.requests = 0
        """How often somebody asked."""
        self.early = False
        """Whether somebody asked before the ranks listened."""
        self.ordered: float | None = None
        """When the job was ordered to end, on the monotonic clock."""
        self._process: subprocess.Popen[bytes] | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self) for number in ALL}
            self.requests += any(map(was_asked, self._before.values()))
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def attach(self, process: subprocess.Popen[bytes]) -> None:
        """Says which process to tell; a request that came while it was being started is passed on now."""
        self._process = process
        if self.requests:
            self._pass_on()

    def detach(self) -> None:
        """Says that the process has ended."""
        self._process = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """The signal handler."""
        self.requests += 1
        if self._process is None:
            return
        self._pass_on()
        if self.requests == 1 and number == signal.SIGINT:
            os.write(2, b"marl: stopping at the next update (again to stop at once)\n")

    def _pass_on(self) -> None:
        assert self._process is not None
        if self.requests == 1 and not self._listens():
            self.early = True
            return
        if self.requests > 1:
            self.ordered = self.ordered or time.monotonic()
        # mpirun answers SIGINT and SIGTERM by killing the ranks within seconds; SIGUSR1 it hands on to them.
        self._process.send_signal(signal.SIGUSR1 if self.requests == 1 else signal.SIGTERM)
