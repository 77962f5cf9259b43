"""Memory that a machine has free, and the refusal of what will not fit into it, before anything is allocated."""

from __future__ import annotations

import os
import socket
import zlib
from collections.abc import Callable, Iterable
from typing import Final

import torch

from marl.core import Communicator
from marl.errors import InputError

SMALLER_IMAGES: Final = "or make images smaller (--preprocessing.resize 42 42, --preprocessing.grey)"


def require_memory(
    needed: int,
    message: Callable[[str, float], str],
    communicator: Communicator | None = None,
    device: torch.device | str = "cpu",
) -> None:
    """Refuses what needs more memory than there is. Collective: all ranks come to the same decision.

    Ranks of one machine see the same free memory, and each of them alone may fit into it.

    Args:
        needed: bytes that this rank is about to allocate.
        message: from "needs 12.0 GiB on one machine, but 8.0 GiB are free" and the share of it that fits, in 0 to 1, to
            the whole line.
        communicator: connects the ranks, all of which call this together; None for one rank.
        device: where it will be allocated.

    Raises:
        InputError: the ranks of some machine need more than it has.
    """
    place = torch.device(device)
    needed, available = _tightest(needed, place, communicator)
    if needed > available:
        where = "one GPU" if place.type == "cuda" else "one machine"
        text = f"needs {needed / 2**30:,.1f} GiB on {where}, but {available / 2**30:,.1f} GiB are free"
        raise InputError(message(text, max(available, 0) / needed))


def _tightest(needed: int, device: torch.device, communicator: Communicator | None) -> tuple[int, int]:
    """Memory that all ranks of one place need, and that it has free, of the place that has least to spare."""
    available = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_memory()
    if communicator is None:
        return needed, available
    table = torch.zeros((communicator.size, 3), dtype=torch.float64)
    place = zlib.crc32(f"{socket.gethostname()} {device}".encode())
    table[communicator.rank] = torch.tensor([place, needed, available], dtype=torch.float64)
    communicator.all_reduce(table)
    places = (table[table[:, 0] == name] for name in table[:, 0].unique())
    totals = [(int(rows[:, 1].sum()), int(rows[:, 2].min())) for rows in places]
    return min(totals, key=lambda total: total[1] - total[0])


def available_memory() -> int:
    """Bytes that this process may still allocate: what the system, and its control group, have free."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) * 1024
    limit, used = ("".join(_lines(f"/sys/fs/cgroup/memory.{name}")).strip() for name in ("max", "current"))
    if limit.isdigit() and used.isdigit():
        # Cached files count as used, but are given up when memory is wanted.
        cached = (int(line.split()[1]) for line in _lines("/sys/fs/cgroup/memory.stat") if "inactive_file" in line)
        free = min(free, int(limit) - int(used) + max(cached, default=0))
    return free


def _lines(path: str) -> Iterable[str]:
    try:
        with open(path) as file:
            return file.readlines()
    except OSError:
        return ()
