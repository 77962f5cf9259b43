"""The communicator of a single process, the base of those that wrap another one, and the split of work over ranks.

The communicator over MPI is in ``marl.launchers.mpi``; nothing here knows about it.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from marl.core import Communicator
from marl.errors import OrderlyExit


def check_collective(tensor: Tensor, operation: Literal["sum", "min", "max"] | None = None) -> None:
    """Raises ValueError where a tensor cannot take part in a collective, whatever the number of ranks.

    Args:
        tensor: to be sent; it must be contiguous.
        operation: of the reduction; sums of bool are refused, since True + True has no meaning as a bool.
    """
    if not tensor.is_contiguous():
        raise ValueError(f"collectives need contiguous tensors, got strides {tensor.stride()} for {tensor.shape}")
    if operation == "sum" and tensor.dtype == torch.bool:
        raise ValueError("a bool tensor cannot be summed over ranks; reduce it by max (any) or min (all)")


class DelegatingCommunicator(Communicator):
    """Another communicator's collectives as they are; subclasses add to some of them.

    Args:
        communicator: the ranks.
    """

    def __init__(self, communicator: Communicator) -> None:
        self._inner = communicator
        self.rank = communicator.rank
        self.size = communicator.size

    def all_reduce(self, tensor: Tensor, operation: Literal["sum", "min", "max"] = "sum") -> None:
        self._inner.all_reduce(tensor, operation)

    def broadcast(self, tensor: Tensor, root: int = 0) -> None:
        self._inner.broadcast(tensor, root)

    def gather_rows(self, tensor: Tensor) -> Tensor:
        return self._inner.gather_rows(tensor)

    def cast_vote(self, element: Tensor) -> None:
        self._inner.cast_vote(element)

    def read_vote(self, element: Tensor) -> None:
        self._inner.read_vote(element)

    def abort(self, code: int) -> None:
        self._inner.abort(code)


class SerialCommunicator(Communicator):
    """One process: every collective is the identity. It refuses the tensors that several ranks would refuse."""

    rank = 0
    size = 1

    def all_reduce(self, tensor: Tensor, operation: Literal["sum", "min", "max"] = "sum") -> None:
        """Leaves the tensor as it is."""
        check_collective(tensor, operation)

    def broadcast(self, tensor: Tensor, root: int = 0) -> None:
        """Leaves the tensor as it is; ValueError where the root is not rank 0."""
        check_collective(tensor)
        if root != 0:
            raise ValueError(f"there is no rank {root} in a single process")

    def gather_rows(self, tensor: Tensor) -> Tensor:
        """A copy of the tensor."""
        check_collective(tensor)
        if tensor.dim() == 0:
            raise ValueError("a scalar has no rows to gather")
        return tensor.detach().clone()

    def abort(self, code: int) -> None:
        """Leaves the process with this exit code."""
        raise OrderlyExit(code)


def split(total: int, size: int, rank: int) -> tuple[int, int]:
    """A rank's contiguous share of ``total`` things, for instance environment copies.

    Shares differ by at most one; the first ranks hold the larger ones. With fewer things than ranks the last
    ranks hold none.

    Returns:
        The index of the first thing, and how many.
    """
    if total < 0 or not 0 <= rank < size:
        raise ValueError(f"cannot give rank {rank} of {size} its share of {total}")
    share, rest = divmod(total, size)
    return share * rank + min(rank, rest), share + (rank < rest)
