"""Collectives that are written down where a watchdog reads them."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from marl.core import Communicator
from marl.distributed.communicators import DelegatingCommunicator
from marl.launchers.supervision.heartbeat import Heartbeat


class WatchedCommunicator(DelegatingCommunicator):
    """Another communicator's collectives, written down in a heartbeat.

    Args:
        communicator: the ranks.
        heartbeat: this rank's.
    """

    def __init__(self, communicator: Communicator, heartbeat: Heartbeat) -> None:
        super().__init__(communicator)
        self._heartbeat = heartbeat

    def all_reduce(self, tensor: Tensor, operation: Literal["sum", "min", "max"] = "sum") -> None:
        """See Communicator."""
        self._heartbeat.enter(0, tensor.nbytes)
        super().all_reduce(tensor, operation)
        self._heartbeat.leave()

    def broadcast(self, tensor: Tensor, root: int = 0) -> None:
        """See Communicator."""
        self._heartbeat.enter(1, tensor.nbytes)
        super().broadcast(tensor, root)
        self._heartbeat.leave()

    def gather_rows(self, tensor: Tensor) -> Tensor:
        """See Communicator."""
        # Row counts differ between ranks; a size that is the same everywhere tells nothing wrong.
        self._heartbeat.enter(2, 0)
        rows = super().gather_rows(tensor)
        self._heartbeat.leave()
        return rows
