"""The collective end of a job: all ranks leave in order, or one of them aborts the job."""

from __future__ import annotations

import contextlib
import os
import time
import zlib
from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from marl.launchers.environment_variables import LAST_WORD
from marl.launchers.mpi.communicator import MPICommunicator
from marl.launchers.mpi.elastic_communicator import ElasticCommunicator, RankLossError
from marl.launchers.stopping import STOPPED
from marl.resources.streams import flush_standard_streams, write_error

if TYPE_CHECKING:
    from mpi4py import MPI

_TIMEOUTS: Final = {STOPPED: 120.0, 2: 5.0}
"""Seconds that a rank waits for the others, by exit code, before it aborts the job; a stop saves a checkpoint first,
and rank 0 then gives W&B up to 90 to finish."""
_OTHER_TIMEOUT: Final = 1.0
_POLL_SECONDS: Final = 0.005


def print_error(text: str) -> None:
    """Prints to standard error, after all that was printed to standard output."""
    flush_standard_streams()
    write_error(text)


def say_last_word() -> None:
    """Tells the process that started this job that the work is done.

    mpirun's exit code does not: it is 0 too where a rank left by ``os._exit(0)`` or was replaced by another program,
    and with ULFM where all ranks have died.
    """
    if word := os.environ.get(LAST_WORD):
        with contextlib.suppress(OSError):
            # One write, which comes through the pipe in one piece.
            os.write(2, f"{word}\n".encode())


class CollectiveShutdown:
    """Ends all ranks together, or aborts the job.

    A rank that fails cannot know whether the others fail too (invalid input fails everywhere) or wait for it in a
    collective, for ever. So it enters a barrier on a communicator of its own and waits for a while: if all ranks enter
    it, they agree on what to print and leave in order; if not, the job is aborted.

    Args:
        communicator: the ranks; collective.
    """

    def __init__(self, communicator: MPICommunicator) -> None:
        self._communicator = communicator
        self._elastic = communicator if isinstance(communicator, ElasticCommunicator) else None
        self._own_comm = None if self._elastic else communicator.comm.Dup()

    @property
    def _comm(self) -> MPI.Comm:
        if self._own_comm is not None:
            return self._own_comm
        assert self._elastic is not None
        return self._elastic.shutdown_comm

    def leave(self, code: int, report: str, key: str) -> int:
        """Ends this rank.

        Args:
            code: its exit code.
            report: the error to print, or nothing; rank 0 prints at once.
            key: equal for reports that need not be printed twice.

        Returns:
            The highest exit code of all ranks; does not return if some rank does not leave too.
        """
        if self._elastic is None:
            return self._leave(code, report, key)
        if code in (0, STOPPED):
            return self._leave_survivors(self._elastic, code, report, key)
        # An error is no death that the others should survive.
        try:
            with self._elastic.detecting_loss():
                return self._leave(code, report, key)
        except RankLossError:
            if self._elastic.rank != 0:
                print_error(report)
            self._elastic.abort(code)
            raise

    def _leave_survivors(self, communicator: ElasticCommunicator, code: int, report: str, key: str) -> int:
        had_rank_0 = communicator.rank == 0

        def attempt() -> int:
            nonlocal code, had_rank_0
            with communicator.detecting_loss():
                self.barrier_with_timeout(None)
                survived = torch.tensor([had_rank_0])
                communicator.all_reduce(survived, "max")
                if not survived:
                    # The other ranks do not know whether it had written its summary.
                    code, had_rank_0 = 1, communicator.rank == 0
                    if had_rank_0:
                        print_error("marl: rank 0 died before it had written the results\n")
                return self._leave(code, report, key)

        code = communicator.retry_with_survivors(attempt)
        if communicator.lost:
            # MPI_Finalize waits for dead ranks, now and then for ever.
            flush_standard_streams()
            os._exit(code)
        return code

    def _leave(self, code: int, report: str, key: str) -> int:
        rank = self._communicator.rank
        if rank == 0 and report:
            print_error(report)
        timeout = None if code == 0 else _TIMEOUTS.get(code, _OTHER_TIMEOUT)
        if not self.barrier_with_timeout(timeout):
            if not report:
                print_error(f"[rank {rank}] ended with exit code {code} while other ranks went on\n")
            elif rank != 0:
                print_error(report)
            self._communicator.abort(code)
        mine = np.array([zlib.crc32(key.encode()) if report else 0], dtype=np.int64)
        first = mine.copy()
        self._comm.Bcast(first, 0)
        if rank != 0 and report and mine[0] != first[0]:
            print_error(report)
        codes = np.array([code], dtype=np.int64)
        highest = np.empty_like(codes)
        self._comm.Allreduce(codes, highest, self._communicator.operations["max"])
        if rank == 0 and not highest[0]:
            say_last_word()
        return int(highest[0])

    def barrier_with_timeout(self, timeout: float | None) -> bool:
        """Waits for all ranks; returns False if some have not entered the barrier after this number of seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            request = self._comm.Ibarrier()
            # Sleeping leaves the cores to ranks that still work, for instance rank 0 drawing a learning curve.
            while not request.Test():
                if deadline is not None and time.monotonic() > deadline:
                    return False
                time.sleep(_POLL_SECONDS)
        except Exception as error:
            if self._elastic is not None:
                raise RankLossError(str(error)) from error
            return False
        return True
