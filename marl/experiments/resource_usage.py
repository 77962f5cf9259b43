"""A run's speed and memory, in every row of metrics."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path
from typing import Final

import torch

from marl.core import Communicator, Metrics
from marl.counters import Counter

MACHINE: Final = ("wall_seconds", "env_steps_per_second", "memory_mb")
"""Metrics of the machine. All others are the same, however often a run was interrupted."""


def resident_bytes() -> int:
    """Returns the memory that this process holds; its peak, on systems that tell no more than that."""
    try:
        pages = int(Path("/proc/self/statm").read_bytes().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else 1024 * most


class Usage:
    """Makes the first entries of each row: counts, speed since the last row, and memory.

    Args:
        counter: of the run, as it is when its rows begin.
        communicator: the ranks.
    """

    def __init__(self, counter: Counter, communicator: Communicator) -> None:
        self._counter = counter
        self._communicator = communicator
        self._before = (counter.env_steps, counter.wall_seconds)

    def row(self) -> Metrics:
        """Returns counts, steps per second, and megabytes (10^6 bytes) of the rank that holds most. Collective."""
        counter, (steps, seconds) = self._counter, self._before
        self._before = (counter.env_steps, counter.wall_seconds)
        rate = (self._before[0] - steps) / max(self._before[1] - seconds, 1e-9)
        memory = torch.tensor(resident_bytes())
        self._communicator.all_reduce(memory, "max")
        return {**counter.row(), "env_steps_per_second": rate, "memory_mb": float(memory) / 1e6}
