"""Collectives that are recorded in a heartbeat, for a watchdog."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from marl.core import Communicator
from marl.distributed.communicators import DelegatingCommunicator
from marl.launchers.supervision.heartbeat import ALL_REDUCE, BROADCAST, GATHER_ROWS, Heartbeat


class WatchedCommunicator(DelegatingCommunicator):
    """A communicator that records each collective in a heartbeat.

    Args:
        communicator: the ranks.
        heartbeat: the heartbeat of this rank.
    """

    def __init__(self, communicator: Communicator, heartbeat: Heartbeat) -> None:
        super().__init__(communicator)
        self._heartbeat = heartbeat

    def all_reduce(self, tensor: Tensor, operation: Literal["sum", "min", "max"] = "sum") -> None:
        self._heartbeat.enter(ALL_REDUCE, tensor.nbytes)
        super().all_reduce(tensor, operation)
        self._heartbeat.leave()

    def broadcast(self, tensor: Tensor, root: int = 0) -> None:
        self._heartbeat.enter(BROADCAST, tensor.nbytes)
        super().broadcast(tensor, root)
        self._heartbeat.leave()

    def gather_rows(self, tensor: Tensor) -> Tensor:
        # Row counts differ between ranks, so a size would look as if collectives were out of step.
        self._heartbeat.enter(GATHER_ROWS, 0)
        rows = super().gather_rows(tensor)
        self._heartbeat.leave()
        return rows
