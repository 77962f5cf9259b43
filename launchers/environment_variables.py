"""Environment variables of launchers, and the cores and threads of a rank."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Final

LAST_WORD: Final = "MARL_LAST_WORD"
"""Text that ranks write to standard error when all have done their work, for the process that started them."""
THREADS: Final = "MARL_THREADS"
THREADS_SHARE: Final = "MARL_THREADS_SHARE"
"""Threads that a job of ours has divided among its ranks by default, not on request."""
_WORLD_SIZES: Final = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")
"""Set by Open MPI's mpirun, by MPICH's and Intel's, and by srun."""
_LOCAL_SIZES: Final = ("OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "SLURM_STEP_TASKS_PER_NODE")
_LOCAL_RANKS: Final = ("OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID")


def available_core_numbers() -> list[int]:
    """Lists the numbers of the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def available_cores() -> int:
    """Counts the cores that this process may use."""
    return len(available_core_numbers())


def world_size_from_environment() -> int | None:
    """Returns the number of ranks that the launcher started; None if no launcher did."""
    return number_from_environment(_WORLD_SIZES)


def local_rank() -> int:
    """Returns this rank's number on its machine, from 0, as the launcher set it; 0 if no launcher did."""
    return number_from_environment(_LOCAL_RANKS) or 0


def number_from_environment(names: Sequence[str]) -> int | None:
    """Returns the first of these variables that is a number; None if none is."""
    for name in names:
        if os.environ.get(name, "").isdigit():
            return int(os.environ[name])
    return None


def stated_threads(environment: Mapping[str, str] | None = None) -> int:
    """Returns the number of threads that the user or SLURM has set; 0 if none was set.

    MARL_THREADS, OMP_NUM_THREADS and SLURM_CPUS_PER_TASK count, in this order.
    """
    variables = os.environ if environment is None else environment
    for name in (THREADS, "OMP_NUM_THREADS", "SLURM_CPUS_PER_TASK"):
        # In a job of ours OMP_NUM_THREADS may only repeat the default share.
        if name == "OMP_NUM_THREADS" and variables.get(THREADS_SHARE) == variables.get(name):
            continue
        if (stated := _first_number(variables.get(name, ""))) > 0:
            return stated
    return 0


def threads_for_rank(environment: Mapping[str, str] | None = None) -> int:
    """Returns this rank's fair share of threads.

    A number that was set counts (see ``stated_threads``); otherwise the cores are divided among the ranks that the
    launcher started on this host, and a process without a launcher takes all of them.
    """
    variables = os.environ if environment is None else environment
    if (stated := stated_threads(variables)) > 0:
        return stated
    for name in _LOCAL_SIZES:
        if (ranks := _first_number(variables.get(name, ""))) > 0:
            return max(1, available_cores() // ranks)
    return available_cores()


def _first_number(text: str) -> int:
    # OMP_NUM_THREADS may be a list "4,2", SLURM writes "2(x3),1".
    found = re.match(r"\d+", text)
    return int(found.group()) if found else 0


def use_fair_threads(*, small: bool = False) -> int:
    """Sets torch's threads to this rank's share (see ``threads_for_rank``) and returns it.

    Args:
        small: whether networks are small; then one thread is enough unless more were set. A second one gains little
            on small matrices, and costs much as soon as another process uses its core.
    """
    import torch

    threads = (small and (stated_threads() or 1)) or threads_for_rank()
    torch.set_num_threads(threads)
    return threads
