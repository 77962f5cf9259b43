"""Agreeing to stop costs no collective of its own: the question travels with the gradients."""

from __future__ import annotations

from torch import Tensor

from marl.core import Communicator
from marl.distributed.communicators import DelegatingCommunicator


class StopVote(DelegatingCommunicator):
    """Another communicator's collectives, and one yes-or-no question that travels with gradients.

    Whoever reduces gradients leaves one element of its buffer to the question (``cast`` before the all-reduce,
    ``read`` after it; see ReplicatedAdam). So all ranks know at the same update whether any of them asked.

    Args:
        communicator: the ranks.
    """

    def __init__(self, communicator: Communicator) -> None:
        super().__init__(communicator)
        self.requested = False
        """Whether this rank says yes; to be set before an update."""
        self.passed = False
        """Whether any rank has said yes; the same on all ranks after an update."""

    def cast(self, seat: Tensor) -> None:
        """Writes this rank's answer into an element that is about to be summed over ranks."""
        seat.fill_(float(self.requested))

    def read(self, seat: Tensor) -> None:
        """Reads the sum of all ranks' answers."""
        self.passed = self.passed or bool(seat > 0)
