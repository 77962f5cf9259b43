"""Environment."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Final

THREADS: Final = "MARL_THREADS"
_SHARE: Final = "MARL_THREADS_SHARE"
"""Threads that a job of ours has divided among its ranks, without anybody's asking."""


_WORLD_SIZES: Final = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")
"""Set by Open MPI's mpirun, by MPICH's and Intel's, and by srun."""
_LOCAL_SIZES: Final = ("OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "SLURM_STEP_TASKS_PER_NODE")
_LOCAL_RANKS: Final = ("OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID")


def available_core_numbers() -> list[int]:
    """Which cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def available_cores() -> int:
    """How many cores this process may use."""
    return len(available_core_numbers())


def world_size_from_environment() -> int | None:
    """How many ranks the launcher says it started; None where no launcher did."""
    return number_from_environment(_WORLD_SIZES)


def local_rank() -> int:
    """Which of its machine's ranks the launcher says this is, counted from 0; 0 where no launcher did."""
    return number_from_environment(_LOCAL_RANKS) or 0


def number_from_environment(names: Sequence[str]) -> int | None:
    """What the first of these variables that holds a number says; None where none does."""
    for name in names:
        if os.environ.get(name, "").isdigit():
            return int(os.environ[name])
    return None


def stated_threads(environment: Mapping[str, str] | None = None) -> int:
    """The threads that the user, or SLURM, has said explicitly; 0 where nobody has.

    MARL_THREADS, OMP_NUM_THREADS and SLURM_CPUS_PER_TASK count, in this order.
    """
    variables = os.environ if environment is None else environment
    for name in (THREADS, "OMP_NUM_THREADS", "SLURM_CPUS_PER_TASK"):
        # In a job of ours OMP_NUM_THREADS may only repeat what we divided.
        if name == "OMP_NUM_THREADS" and variables.get(_SHARE) == variables.get(name):
            continue
        if (stated := _first_number(variables.get(name, ""))) > 0:
            return stated
    return 0


def threads_for_rank(environment: Mapping[str, str] | None = None) -> int:
    """This rank's fair share of threads.

    What was said explicitly counts (see ``stated_threads``); otherwise the cores are divided among the ranks that
    the launcher put on this host, and a process that was started alone takes all of them.
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
        small: whether networks are small; then one thread is enough unless more were asked for. A second one gains
            little on small matrices, and costs much as soon as somebody else uses its core.
    """
    import torch

    threads = (small and (stated_threads() or 1)) or threads_for_rank()
    torch.set_num_threads(threads)
    return threads


COMPLETION_MARKER: Final = "MARL_LAST_WORD"
"""The file that ranks make when they have come to an end together; see ``Scratch.last_word``."""
