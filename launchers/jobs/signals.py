"""Signals of a launcher, forwarded to its job."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable

from marl.launchers.stopping import StopRequest


class ForwardedStop(StopRequest):
    """Forwards signals to mpirun: the first as a request to stop at the next update, the second as an order to end.

    One may serve several jobs in turn.

    Args:
        ranks_listen: whether the ranks handle a request by now. Before they do, mpirun would lose it, or die of it; as
            no update was done that could be lost, the job is ended instead.

    Attributes:
        early: whether a stop was requested before the ranks listened.
        ordered: when the job was ordered to end, on the monotonic clock; None if it was not.
    """

    def __init__(self, ranks_listen: Callable[[], bool] = lambda: True) -> None:
        super().__init__()
        self._ranks_listen = ranks_listen
        self.early = False
        self.ordered: float | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> ForwardedStop:
        super().__enter__()
        return self

    def attach(self, process: subprocess.Popen[bytes]) -> None:
        """Sets the process to forward to; a request that came while it was being started is forwarded now."""
        self._process = process
        if self.requests:
            self._forward(process)

    def detach(self) -> None:
        """Forwards no more: the process has ended."""
        self._process = None

    def _answer(self, number: int) -> None:
        if self._process is None:
            return
        self._forward(self._process)
        if self.requests == 1 and number == signal.SIGINT:
            os.write(2, b"marl: stopping at the next update (again to stop at once)\n")

    def _forward(self, process: subprocess.Popen[bytes]) -> None:
        if self.requests == 1 and not self._ranks_listen():
            self.early = True
            return
        if self.requests > 1:
            self.ordered = self.ordered or time.monotonic()
        # mpirun answers SIGINT and SIGTERM by killing the ranks within seconds; SIGUSR1 it forwards to them.
        process.send_signal(signal.SIGUSR1 if self.requests == 1 else signal.SIGTERM)
