"""Collectives that are written down where a watchdog reads them."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from launchers.watchdog import Heartbeat
from marl.core import Communicator


class WatchedCommunicator(Communicator):
    """Another communicator's collectives, written down in a heartbeat.

    Args:
        communicator: the ranks.
        heartbeat: this rank's.
    """

    def __init__(self, communicator: Communicator, heartbeat: Heartbeat) -> None:
        self._inner = communicator
        self._heartbeat = heartbeat
        self.rank = communicator.rank
        self.size = communicator.size

    def all_reduce(self, tensor: Tensor, operation: Literal["sum", "min", "max"] = "sum") -> None:
        """See Communicator."""
        self._heartbeat.enter(0, tensor.nbytes)
        self._inner.all_reduce(tensor, operation)
        self._heartbeat.leave()

    def broadcast(self, tensor: Tensor, root: int = 0) -> None:
        """See Communicator."""
        self._heartbeat.enter(1, tensor.nbytes)
        self._inner.broadcast(tensor, root)
        self._heartbeat.leave()

    def gather_rows(self, tensor: Tensor) -> Tensor:
        """See Communicator."""
        # Row counts differ between ranks; a size that is the same everywhere tells nothing wrong.
        self._heartbeat.enter(2, 0)
        rows = self._inner.gather_rows(tensor)
        self._heartbeat.leave()
        return rows

    def abort(self, code: int) -> None:
        """See Communicator."""
        self._inner.abort(code)
