"""The records of a rank's environment copies, in preallocated rings, and the counts that all ranks share."""

from __future__ import annotations

import os
import socket
import zlib
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

from marl.core import Communicator, Saveable, State
from marl.errors import InputError
from marl.replay.items import Items, TransitionItems
from marl.replay.layout import Staging, item_layout
from marl.specs import EnvironmentSpec
from marl.types import Array, Integers


class Replay(Saveable):
    """Preallocated records of this rank's environment copies. Adders write, datasets read.

    A copy's items are numbered from 0; number k lies in row ``k % rows``, so the newest ``rows`` items are stored.

    Args:
        spec: the environment's; states are stored if it has them.
        items: transitions or sequences.
        capacity: items over all copies and ranks; every copy gets an equal share, rounded down.
        num_envs: copies on this rank, E.
        first_env: global index of the first of them.
        global_num_envs: copies on all ranks; the default is that this rank holds all.
        communicator: connects the ranks, all of which make their replay together; None for one rank.
        save: whether checkpoints hold the records.

    Raises:
        InputError: capacity is below one item a copy, or needs more memory than there is; or the game is
            turn-based, and items are not transitions of one step.
    """

    def __init__(
        self,
        spec: EnvironmentSpec,
        items: Items,
        *,
        capacity: int,
        num_envs: int,
        first_env: int = 0,
        global_num_envs: int | None = None,
        communicator: Communicator | None = None,
        save: bool = False,
    ) -> None:
        self.global_num_envs = num_envs if global_num_envs is None else global_num_envs
        if spec.turn_based and items != TransitionItems(n_step=1):
            raise InputError("in turn-based games replay holds transitions of one step; leave out longer ones")
        if capacity < self.global_num_envs:
            raise InputError(
                f"replay capacity {capacity} is below one item for each of {self.global_num_envs} environment copies; "
                "raise --algorithm.replay.capacity"
            )
        if communicator is None and num_envs != self.global_num_envs:
            raise ValueError("copies on other ranks need a communicator")
        self.spec, self.items = spec, items
        self.num_envs, self.first_env = num_envs, first_env
        self.layout = item_layout(spec, items)
        self.rows = capacity // self.global_num_envs
        self.capacity = self.rows * self.global_num_envs
        self._communicator = communicator
        self.saves = save
        needed, available = _memory(self.rows * num_envs * self.layout.record_bytes, communicator)
        if needed > available:
            raise InputError(
                f"replay of {capacity:,} items needs {needed / 2**30:,.1f} GiB on one machine "
                f"({self.layout.record_bytes:,} bytes an item), but {available / 2**30:,.1f} GiB are free; "
                f"lower --algorithm.replay.capacity below {int(capacity * available / needed):,}"
            )
        # Allocated by numpy, which asks for huge pages: random reads miss the page table far less often.
        self._records = np.zeros((self.rows, num_envs, self.layout.words), np.int64)
        self._flat = self._records.reshape(-1, self.layout.words)
        self._staging: Staging | None = None
        self.local_counts: Integers = np.zeros(num_envs, np.int64)
        """(E,): items that each copy of this rank has ever committed."""
        self.counts: Integers = np.zeros(self.global_num_envs, np.int64)
        """(global copies,): the same for all copies of all ranks, as of the last ``sync_counts``."""
        self._synced = True

    @property
    def in_step(self) -> bool:
        """True if every copy commits one item a step, so that ranks know each other's counts."""
        return isinstance(self.items, TransitionItems)

    def clear(self) -> None:
        """Forgets all items."""
        self.local_counts.fill(0)
        self.counts.fill(0)
        self._synced = True

    @property
    def nbytes(self) -> int:
        """Bytes that the records take."""
        return self._records.nbytes

    @property
    def inserted(self) -> int:
        """Items ever committed over all ranks, as of the last ``sync_counts``."""
        return int(self.counts.sum())

    @property
    def stored(self) -> int:
        """Items stored over all ranks, as of the last ``sync_counts``."""
        return int(self.stored_of_envs.sum())

    @property
    def stored_of_envs(self) -> Integers:
        """(global copies,) int64: items stored of every copy."""
        return np.minimum(self.counts, self.rows)

    def insert(self, item: Mapping[str, Tensor]) -> None:
        """Inserts one complete item a copy.

        Args:
            item: all fields by name, each (E, *field shape).
        """
        if self._staging is None:
            self._staging = Staging(self.layout, (self.num_envs,))
        self._staging.write(item)
        self.append(self._staging.records)

    def append(self, records: Integers, envs: Integers | None = None) -> None:
        """Appends finished items; called at every step, on all ranks, also where nothing is finished.

        Args:
            records: (E, words) int64, the copies' records.
            envs: (K,) int64, the copies whose items are finished; None for all.
        """
        if self.in_step:
            # One contiguous write: many times faster than to write the fields where they belong, one by one.
            self._records[int(self.local_counts[0]) % self.rows] = records
            self.local_counts += 1
        else:
            if envs is None:
                envs = np.arange(self.num_envs)
            self._records[self.local_counts[envs] % self.rows, envs] = records[envs]
            self.local_counts[envs] += 1
        self._synced = False

    def sync_counts(self) -> None:
        """Brings all ranks' counts up to date: by arithmetic where copies are in step, else by one small all-reduce."""
        if self._synced:
            return
        if self._communicator is None:
            self.counts[:] = self.local_counts
        elif self.in_step:
            self.counts.fill(self.local_counts[0])
        else:
            self.counts.fill(0)
            self.counts[self.first_env : self.first_env + self.num_envs] = self.local_counts
            self._communicator.all_reduce(torch.from_numpy(self.counts))
        self._synced = True

    def gather(self, envs: Integers, numbers: Integers, out: Integers) -> None:
        """Copies the records of items (copy on this rank, number), (B,) each, into ``out``, (B, words)."""
        np.take(self._flat, numbers % self.rows * self.num_envs + envs, axis=0, out=out, mode="clip")

    def share(self, of_envs: Array) -> Tensor:
        """Joins numbers of copies over ranks.

        Args:
            of_envs: (K, E) float64 numbers of this rank's copies.

        Returns:
            (K, global copies) float64, equal on all ranks bit by bit.
        """
        if self._communicator is None:
            return torch.from_numpy(of_envs)
        joined = torch.zeros((of_envs.shape[0], self.global_num_envs), dtype=torch.float64)
        joined[:, self.first_env : self.first_env + self.num_envs] = torch.from_numpy(of_envs)
        # Only zeros are added to a number, so the sum is exact whatever the number of ranks.
        self._communicator.all_reduce(joined)
        return joined

    def env_state_dict(self) -> State:
        """The records (E, filled rows, words), counts and rows (E,) int64, if they are to be saved."""
        if not self.saves:
            return {}
        # Rows that were never written are left out; one is kept, so that there is a tensor to save.
        filled = min(max(1, int(self.local_counts.max())), self.rows)
        return {
            "records": torch.from_numpy(self._records[:filled]).transpose(0, 1).contiguous(),
            "counts": torch.from_numpy(self.local_counts.copy()),
            "rows": torch.full((self.num_envs,), self.rows),
        }

    def load_env_state_dict(self, state: State) -> None:
        """Loads what ``env_state_dict`` gave; an empty dictionary leaves the replay empty."""
        if not state:
            return
        records, rows = state["records"], int(state["rows"][0])
        if (rows, records.shape[2]) != (self.rows, self.layout.words):
            raise ValueError(
                f"saved replay holds {rows} records of {records.shape[2]} words a copy, "
                f"but this one {self.rows} of {self.layout.words}: capacity, items and spec must be those of the run"
            )
        torch.from_numpy(self._records[: records.shape[1]]).copy_(records.transpose(0, 1))
        self.local_counts[:] = state["counts"].numpy()
        self._synced = False


def _memory(needed: int, communicator: Communicator | None) -> tuple[int, int]:
    """Memory that all ranks of one machine need, and that it has free, of the machine that has least to spare.

    Collective, and before anything is allocated: ranks of one machine see the same free memory, each of them alone
    may fit into it, and all must come to the same decision.
    """
    if communicator is None:
        return needed, available_memory()
    table = torch.zeros((communicator.size, 3), dtype=torch.float64)
    machine = zlib.crc32(socket.gethostname().encode())
    table[communicator.rank] = torch.tensor([machine, needed, available_memory()], dtype=torch.float64)
    communicator.all_reduce(table)
    machines = (table[table[:, 0] == name] for name in table[:, 0].unique())
    totals = [(int(rows[:, 1].sum()), int(rows[:, 2].min())) for rows in machines]
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
