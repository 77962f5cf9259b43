"""Elastic communicator."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final, Literal, TypeVar

from torch import Tensor

from marl.errors import InputError

if TYPE_CHECKING:
    pass
from marl.launchers.mpi.communicator import MPICommunicator

T = TypeVar("T")


_FAULT_TOLERANCE: Final = "OMPI_MCA_mpi_ft_enable"
"""What mpirun --with-ft ulfm sets to 1 in every rank."""


class RankLossError(Exception):
    """A rank died, and the others cannot go on as they were."""


class ElasticCommunicator(MPICommunicator):
    """Collectives that raise RankLossError where a rank has died; what is left of the ranks can then go on as fewer.

    For a job that was started with ULFM (``mpirun --with-ft ulfm``). After a loss the ranks' ways part: some find
    their collective done, others do not. So what ranks do together is tried until they agree that it is done; see
    ``together``.

    Source: W. Bland, A. Bouteiller, T. Herault, G. Bosilca, J. Dongarra, "Post-failure recovery of MPI
    communication capability", IJHPCA 27(3), 2013.
    """

    def __init__(self) -> None:
        super().__init__()
        from mpi4py import MPI

        self._error = MPI.Exception
        self._lost = (MPI.ERR_PROC_FAILED, MPI.ERR_PROC_FAILED_PENDING, MPI.ERR_REVOKED)
        self.comm.Set_errhandler(MPI.ERRORS_RETURN)
        self.lost = 0
        """Ranks that died so far."""
        self.aside = self.comm.Dup()
        """The same ranks once more, for messages that must not meet those of training."""

    @contextlib.contextmanager
    def noticing(self) -> Iterator[None]:
        """Turns MPI's word for a lost rank into RankLossError."""
        try:
            yield
        except self._error as error:
            if error.Get_error_class() in self._lost:
                raise RankLossError(str(error)) from error
            raise

    def all_reduce(self, tensor: Tensor, operation: Literal["sum", "min", "max"] = "sum") -> None:
        """See MPICommunicator."""
        with self.noticing():
            super().all_reduce(tensor, operation)

    def broadcast(self, tensor: Tensor, root: int = 0) -> None:
        """See MPICommunicator."""
        with self.noticing():
            super().broadcast(tensor, root)

    def _gather(self, tensor: Tensor, *, everywhere: bool) -> Tensor:
        with self.noticing():
            return super()._gather(tensor, everywhere=everywhere)

    def abort(self, code: int) -> None:
        """Ends all ranks of the job at once with this exit code, which must not be 0."""
        sys.stdout.flush()
        sys.stderr.flush()
        # After MPI_Abort in a job with ULFM, mpirun now and then returns 0 or never (Open MPI 5.0.10). A rank that
        # leaves with a code of its own has not died: mpirun ends the others and returns that code.
        os._exit(code)

    def together(
        self,
        attempt: Callable[[], T],
        *,
        noticed: Callable[[], object] = lambda: None,
        survived: Callable[[int], object] = lambda lost: None,
    ) -> T:
        """Does something that needs all ranks; where some die, again with those that are left, until it is done.

        Args:
            attempt: what to do, the same on all ranks.
            noticed: called as soon as this rank knows of a loss.
            survived: called with the number of lost ranks, when ``rank`` and ``size`` are those of the survivors.

        Returns:
            What the last attempt returned.
        """
        while True:
            result: list[T] = []
            try:
                result.append(attempt())
            except RankLossError:
                noticed()
                # Whoever still waits for the dead, or for us, is woken.
                self.comm.Revoke()
                self.aside.Revoke()
            # One agreement an attempt on every rank, however the attempt ended there: it is never revoked.
            try:
                done = bool(self.comm.Agree(int(bool(result))))
            except self._error:
                done = False
            if done:
                return result[0]
            noticed()
            before = self.size
            self._adopt(self.comm.Shrink())
            with contextlib.suppress(self._error):  # a rank that dies just now is noticed by the next attempt
                self.aside = self.comm.Dup()
            self.lost += before - self.size
            survived(before - self.size)


def check_fault_tolerance() -> None:
    """Raises InputError where this job cannot go on when a rank dies."""
    how = "--elastic needs Open MPI 5 with ULFM, as `marl train … --ranks N --elastic` or `mpirun --with-ft ulfm` start"
    if "OMPI_COMM_WORLD_SIZE" not in os.environ:
        raise InputError(f"{how} it; srun and other launchers cannot, so leave out --elastic")
    if os.environ.get(_FAULT_TOLERANCE) != "1":
        raise InputError(f"{how} it; this mpirun was started without")
    from mpi4py import MPI

    try:
        MPI.COMM_WORLD.Is_revoked()
    except (AttributeError, NotImplementedError) as error:
        library = MPI.Get_library_version().split(",")[0].strip()
        raise InputError(f"{how} it; {library} was built without, so leave out --elastic") from error
