"""The records of a rank's environment copies, in preallocated rings, and the counts that all ranks share."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from marl.core import Communicator, Saveable, State
from marl.errors import InputError
from marl.replay.items import Items, TransitionItems
from marl.replay.layout import Staging, item_layout
from marl.resources.memory import SMALLER_IMAGES, require_memory
from marl.specs import EnvironmentSpec
from marl.types import Array, Bools, Integers


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
        images = any(group.observation.is_image for group in spec.groups)
        require_memory(
            self.rows * num_envs * self.layout.record_bytes,
            lambda needs, share: (
                f"replay of {capacity:,} items {needs} ({self.layout.record_bytes:,} bytes an item); lower "
                f"--algorithm.replay.capacity below {int(capacity * share):,}{', ' + SMALLER_IMAGES if images else ''}"
            ),
            communicator,
        )
        # Allocated by numpy, which asks for huge pages: random reads miss the page table far less often.
        self._records = np.zeros((self.rows, num_envs, self.layout.words), np.int64)
        self._flat = self._records.reshape(-1, self.layout.words)
        fields = self.layout.tensors(torch.from_numpy(self._records))
        self._active: list[Bools] = [fields[f"{group.name}/active"].numpy() for group in spec.groups]
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

    def acted(self, envs: Integers, numbers: Integers) -> Bools:
        """Returns whether anybody acted in items (copy on this rank, number), arrays that broadcast."""
        acted = np.zeros(np.broadcast_shapes(envs.shape, numbers.shape), np.bool_)
        for active in self._active:
            flags = active[numbers % self.rows, envs]
            acted |= flags.any(axis=tuple(range(acted.ndim, flags.ndim)))
        return acted

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
