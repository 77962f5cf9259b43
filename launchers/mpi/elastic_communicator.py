"""A communicator whose ranks may die while the others go on, by Open MPI's user-level failure mitigation (ULFM)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final, Literal, TypeVar

from torch import Tensor

from marl.errors import InputError
from marl.launchers.mpi.communicator import MPICommunicator
from marl.resources.streams import flush_standard_streams

if TYPE_CHECKING:
    from mpi4py import MPI

T = TypeVar("T")
FAULT_TOLERANCE: Final = "OMPI_MCA_mpi_ft_enable"
"""Set to 1 in every rank by mpirun --with-ft ulfm."""


class RankLossError(Exception):
    """Raised where a rank has died, and the collective cannot be completed."""


class ElasticCommunicator(MPICommunicator):
    """Collectives that raise RankLossError where a rank has died; the surviving ranks can then go on as fewer.

    For a job that was started with ULFM (``mpirun --with-ft ulfm``). After a loss, the collective may have succeeded on
    some ranks and failed on others. So collective work is repeated until all ranks agree that it has succeeded; see
    ``retry_with_survivors``.

    Source: W. Bland, A. Bouteiller, T. Herault, G. Bosilca, J. Dongarra, "Post-failure recovery of MPI
    communication capability", IJHPCA 27(3), 2013.

    Attributes:
        lost: the number of ranks that have died so far.
        shutdown_comm: a duplicate of the MPI communicator, for messages that must not match those of training.
    """

    def __init__(self) -> None:
        super().__init__()
        from mpi4py import MPI

        self._error = MPI.Exception
        self._loss_classes = (MPI.ERR_PROC_FAILED, MPI.ERR_PROC_FAILED_PENDING, MPI.ERR_REVOKED)
        self.comm.Set_errhandler(MPI.ERRORS_RETURN)
        self.lost = 0
        self.shutdown_comm = self.comm.Dup()

    @contextlib.contextmanager
    def detecting_loss(self) -> Iterator[None]:
        """Turns MPI's errors for a lost rank into RankLossError."""
        try:
            yield
        except self._error as error:
            if self._is_loss(error):
                raise RankLossError(str(error)) from error
            raise

    def _is_loss(self, error: MPI.Exception) -> bool:
        if error.Get_error_class() in self._loss_classes:
            return True
        # Open MPI up to 5.0.11 reports a loss as MPI_ERR_OTHER where a nonblocking collective notices it as a round of
        # its schedule starts (open-mpi/ompi#14353). By then the communicator knows of the loss.
        comms = (self.comm, self.shutdown_comm)
        return any(comm.Is_revoked() or comm.Get_failed().Get_size() > 0 for comm in comms)

    def all_reduce(self, tensor: Tensor, operation: Literal["sum", "min", "max"] = "sum") -> None:
        with self.detecting_loss():
            super().all_reduce(tensor, operation)

    def broadcast(self, tensor: Tensor, root: int = 0) -> None:
        with self.detecting_loss():
            super().broadcast(tensor, root)

    def _gather(self, tensor: Tensor, *, everywhere: bool) -> Tensor:
        with self.detecting_loss():
            return super()._gather(tensor, everywhere=everywhere)

    def abort(self, code: int) -> None:
        """Ends all ranks of the job at once with this exit code, which must not be 0."""
        flush_standard_streams()
        # After MPI_Abort in a job with ULFM, mpirun now and then returns 0 or never (Open MPI 5.0.10). A rank that
        # exits with a nonzero code has not died: mpirun ends the others and returns that code.
        os._exit(code)

    def retry_with_survivors(
        self,
        attempt: Callable[[], T],
        *,
        on_loss: Callable[[], object] = lambda: None,
        on_shrink: Callable[[int], object] = lambda lost: None,
    ) -> T:
        """Runs collective work; where ranks die, again on the surviving ranks, until it succeeds on all of them.

        Args:
            attempt: the work, the same on all ranks.
            on_loss: called as soon as this rank knows of a loss.
            on_shrink: called with the number of lost ranks, when ``rank`` and ``size`` are those of the survivors.

        Returns:
            The result of the last attempt.
        """
        while True:
            result: list[T] = []
            try:
                result.append(attempt())
            except RankLossError:
                on_loss()
                # Wakes ranks that still wait for dead ones, or for this one.
                self.comm.Revoke()
                self.shutdown_comm.Revoke()
            # One agreement for each attempt on every rank, whether it succeeded there or not: it is never revoked.
            try:
                done = bool(self.comm.Agree(int(bool(result))))
            except self._error:
                done = False
            if done:
                return result[0]
            on_loss()
            before = self.size
            self._adopt(self.comm.Shrink())
            with contextlib.suppress(self._error):  # if another rank dies now, the next attempt detects it
                self.shutdown_comm = self.comm.Dup()
            self.lost += before - self.size
            on_shrink(before - self.size)


def check_fault_tolerance() -> None:
    """Raises InputError if this job cannot go on when a rank dies."""
    how = "--elastic needs Open MPI 5 with ULFM, as `marl train … --ranks N --elastic` or `mpirun --with-ft ulfm` start"
    if "OMPI_COMM_WORLD_SIZE" not in os.environ:
        raise InputError(f"{how} it; srun and other launchers cannot, so leave out --elastic")
    if os.environ.get(FAULT_TOLERANCE) != "1":
        raise InputError(f"{how} it; this mpirun was started without")
    from mpi4py import MPI

    try:
        MPI.COMM_WORLD.Is_revoked()
    except (AttributeError, NotImplementedError) as error:
        library = MPI.Get_library_version().split(",")[0].strip()
        raise InputError(f"{how} it; {library} was built without, so leave out --elastic") from error
