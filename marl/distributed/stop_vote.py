"""Agreement on stopping that costs no collective of its own: votes travel with the gradients."""

from __future__ import annotations

from torch import Tensor

from marl.core import Communicator
from marl.distributed.communicators import DelegatingCommunicator


class StopVote(DelegatingCommunicator):
    """Another communicator's collectives, and a vote to stop that travels with gradients.

    Optimizers leave one element of the buffer that they reduce to the vote (``cast_vote`` before the all-reduce,
    ``read_vote`` after it; see ReplicatedAdam). So all ranks know at the same update whether any of them asked to stop.

    Args:
        communicator: the ranks.
    """

    def __init__(self, communicator: Communicator) -> None:
        super().__init__(communicator)
        self.requested = False
        """Whether this rank asks to stop; to be set before an update."""
        self.passed = False
        """Whether any rank has asked to stop; the same on all ranks after an update."""
        self.votes = 0
        """Votes so far."""

    def cast_vote(self, element: Tensor) -> None:
        element.fill_(float(self.requested))

    def read_vote(self, element: Tensor) -> None:
        self.passed = self.passed or bool(element > 0)
        self.votes += 1
