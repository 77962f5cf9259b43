"""Shutdown."""

from __future__ import annotations

import contextlib
import os
import sys
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from marl.launchers.environment import COMPLETION_MARKER
from marl.launchers.stopping import STOPPED

if TYPE_CHECKING:
    from mpi4py import MPI
from marl.launchers.mpi.communicator import MPICommunicator
from marl.launchers.mpi.elastic_communicator import ElasticCommunicator, RankLossError

_PATIENCE: Final = {STOPPED: 120.0, 2: 5.0}
"""Seconds that a rank waits for the others before it ends the job for all; a stop saves a checkpoint first, and rank 0
then gives W&B up to 90 to finish."""


def _say(text: str) -> None:
    sys.stdout.flush()
    sys.stderr.write(text)
    sys.stderr.flush()


class CollectiveShutdown:
    """How ranks end together, or end the job where they do not.

    A rank that fails cannot know whether the others fail too (wrong input fails everywhere) or wait for it in a
    collective, for ever. So it offers a barrier of its own kind, which nobody else uses, and waits for a while:
    if all ranks come, they agree on what to print and leave in order; if not, the job is aborted.
    """

    def __init__(self, communicator: MPICommunicator) -> None:
        self._communicator = communicator
        self._own = None if isinstance(communicator, ElasticCommunicator) else communicator.comm.Dup()

    @property
    def _comm(self) -> MPI.Comm:
        if self._own is not None:
            return self._own
        assert isinstance(self._communicator, ElasticCommunicator)
        return self._communicator.aside

    def leave(self, code: int, report: str, key: str) -> int:
        """Ends this rank.

        Args:
            code: its exit code.
            report: what it has to say, or nothing; rank 0 speaks at once.
            key: equal for reports that need not be printed twice.

        Returns:
            The highest exit code of all ranks; does not return where some rank does not come.
        """
        communicator = self._communicator
        if not isinstance(communicator, ElasticCommunicator):
            return self._leave(code, report, key)
        if code not in (0, STOPPED):
            # The others may be anywhere, and this is no death to be survived.
            with contextlib.suppress(RankLossError):
                return self._leave(code, report, key)
            communicator.abort(code)
        first = communicator.rank == 0

        def attempt() -> int:
            nonlocal code, first
            with communicator.noticing():
                self.barrier_with_timeout(None)
                seen = torch.tensor([first])
                communicator.all_reduce(seen, "max")
                if not seen:
                    # Nobody else knows whether it had written its summary.
                    code, first = 1, communicator.rank == 0
                    if first:
                        _say("marl: rank 0 died before it had put the results down\n")
                return self._leave(code, report, key)

        code = communicator.together(attempt)
        with contextlib.suppress(KeyError, OSError):  # nobody asked, or it is of another host
            Path(os.environ[COMPLETION_MARKER]).touch()
        if communicator.lost:
            # MPI_Finalize waits for the dead, now and then for ever.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        return code

    def _leave(self, code: int, report: str, key: str) -> int:
        rank = self._communicator.rank
        if rank == 0 and report:
            _say(report)
        patience = None if code == 0 else _PATIENCE.get(code, 1.0)
        if not self.barrier_with_timeout(patience):
            if not report:
                _say(f"[rank {rank}] ended with exit code {code} while other ranks went on\n")
            elif rank != 0:
                _say(report)
            self._communicator.abort(code)
        mine = np.array([zlib.crc32(key.encode()) if report else 0], dtype=np.int64)
        first = mine.copy()
        self._comm.Bcast(first, 0)
        if rank != 0 and report and mine[0] != first[0]:
            _say(report)
        codes = np.array([code], dtype=np.int64)
        highest = np.empty_like(codes)
        self._comm.Allreduce(codes, highest, self._communicator.operations["max"])
        return int(highest[0])

    def barrier_with_timeout(self, patience: float | None) -> bool:
        """Waits until all ranks have come; False where some had not after so many seconds."""
        deadline = None if patience is None else time.monotonic() + patience
        try:
            request = self._comm.Ibarrier()
            # Sleeping leaves the cores to whoever still works, for instance rank 0 drawing a learning curve.
            while not request.Test():
                if deadline is not None and time.monotonic() > deadline:
                    return False
                time.sleep(0.005)
        except Exception as error:
            if isinstance(self._communicator, ElasticCommunicator):
                raise RankLossError(str(error)) from error
            return False
        return True
