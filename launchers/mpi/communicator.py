"""A communicator over MPI."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
import torch
from torch import Tensor

from marl.core import Communicator
from marl.distributed.communicators import check_collective
from marl.launchers.environment_variables import available_core_numbers
from marl.resources.streams import flush_standard_streams

if TYPE_CHECKING:
    from mpi4py import MPI


_MOST_CORES: Final = 4096
SPINS: Final = 20
"""Polls of a collective before a rank sleeps between polls, where ranks share cores."""
POLL_SECONDS: Final = 1e-4


def _is_oversubscribed(comm: MPI.Intracomm) -> bool:
    """Returns whether some machine of the job runs more ranks than it has cores. Collective."""
    from mpi4py import MPI

    cores = np.zeros(_MOST_CORES, dtype=np.uint8)
    cores[[core for core in available_core_numbers() if core < _MOST_CORES]] = 1
    machine = comm.Split_type(MPI.COMM_TYPE_SHARED)
    # Each rank may be bound to one core, so the machine's cores are those of all its ranks.
    machine.Allreduce(MPI.IN_PLACE, cores, MPI.MAX)
    oversubscribed = np.array([machine.Get_size() > cores.sum()], dtype=np.uint8)
    machine.Free()
    comm.Allreduce(MPI.IN_PLACE, oversubscribed, MPI.MAX)
    return bool(oversubscribed[0])


class MPICommunicator(Communicator):
    """Collectives over MPI on contiguous CPU tensors, in place and without pickling.

    Where ranks share cores, a waiting rank sleeps between polls: spinning would take time from the ranks that it waits
    for.

    Args:
        comm: the ranks; all of them by default. MPI is initialized when the first communicator is made.
    """

    def __init__(self, comm: MPI.Intracomm | None = None) -> None:
        from mpi4py import MPI

        ranks = MPI.COMM_WORLD if comm is None else comm
        self._adopt(ranks)
        self._oversubscribed = self.size > 1 and _is_oversubscribed(ranks)
        self.in_place = MPI.IN_PLACE
        self.operations = {"sum": MPI.SUM, "min": MPI.MIN, "max": MPI.MAX}
        self._byte = MPI.BYTE
        self._buffer_from_address = MPI.buffer.fromaddress
        # True is one and False is zero, so any and all of bool are max and min of bytes.
        self._datatypes = {
            torch.float32: MPI.FLOAT,
            torch.float64: MPI.DOUBLE,
            torch.int64: MPI.INT64_T,
            torch.uint8: MPI.UINT8_T,
            torch.bool: MPI.UINT8_T,
        }

    def _adopt(self, comm: MPI.Comm) -> None:
        self.comm = comm
        self.rank = comm.Get_rank()
        self.size = comm.Get_size()

    def _memory(self, tensor: Tensor) -> MPI.buffer:
        # Ten times faster than a numpy view, which matters where a collective takes microseconds.
        if not tensor.is_cpu:
            raise ValueError(f"MPI collectives take tensors on the CPU, got one on {tensor.device}")
        return self._buffer_from_address(tensor.data_ptr(), tensor.nbytes)

    def all_reduce(self, tensor: Tensor, operation: Literal["sum", "min", "max"] = "sum") -> None:
        """Reduces a float32, float64, int64, uint8 or bool (min, max only) tensor over ranks, in place."""
        check_collective(tensor, operation)
        datatype = self._datatypes.get(tensor.dtype)
        if datatype is None:
            raise ValueError(f"cannot reduce {tensor.dtype} over ranks")
        memory = [self._memory(tensor), tensor.numel(), datatype]
        if not self._oversubscribed:
            self.comm.Allreduce(self.in_place, memory, self.operations[operation])
            return
        request = self.comm.Iallreduce(self.in_place, memory, self.operations[operation])
        polls = 0
        while not request.Test():
            polls += 1
            if polls > SPINS:
                time.sleep(POLL_SECONDS)

    def broadcast(self, tensor: Tensor, root: int = 0) -> None:
        """Overwrites every rank's tensor, of any dtype, with the root's."""
        check_collective(tensor)
        datatype = self._datatypes.get(tensor.dtype, self._byte)
        self.comm.Bcast([self._memory(tensor), tensor.nbytes // datatype.Get_size(), datatype], root)

    def gather_rows(self, tensor: Tensor) -> Tensor:
        """Gathers all ranks' rows in rank order on rank 0, an empty tensor elsewhere; any dtype, any number of rows.

        Raises ValueError, on all ranks, if the rows of two ranks differ in size.
        """
        return self._gather(tensor, everywhere=False)

    def gather_rows_everywhere(self, tensor: Tensor) -> Tensor:
        """Gathers as ``gather_rows``, but complete on all ranks."""
        return self._gather(tensor, everywhere=True)

    def _gather(self, tensor: Tensor, *, everywhere: bool) -> Tensor:
        check_collective(tensor)
        if tensor.dim() == 0:
            raise ValueError("a scalar has no rows to gather")
        row_shape = tensor.shape[1:]
        row_bytes = row_shape.numel() * tensor.dtype.itemsize
        sizes = np.empty((self.size, 2), dtype=np.int64)
        self.comm.Allgather(np.array([tensor.shape[0], row_bytes], dtype=np.int64), sizes)
        if (sizes[:, 1] != sizes[0, 1]).any():
            raise ValueError(f"ranks gather rows of different sizes: {sizes[:, 1].tolist()} bytes")
        counts = sizes[:, 0].tolist()
        rows = torch.empty((sum(counts) if everywhere or self.rank == 0 else 0, *row_shape), dtype=tensor.dtype)
        if row_bytes == 0:
            return rows
        # A datatype of one row keeps counts small: MPI counts are 32 bits wide.
        row = self._byte.Create_contiguous(row_bytes).Commit()
        try:
            send = [self._memory(tensor), tensor.shape[0], row]
            if everywhere:
                self.comm.Allgatherv(send, [self._memory(rows), (counts, None), row])
            else:
                self.comm.Gatherv(send, [self._memory(rows), (counts, None), row] if self.rank == 0 else None, 0)
        finally:
            row.Free()
        return rows

    def abort(self, code: int) -> None:
        """Ends all ranks of the job at once with this exit code."""
        flush_standard_streams()
        self.comm.Abort(code)
