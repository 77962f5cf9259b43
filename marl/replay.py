"""Replay: joint steps of all groups, kept in preallocated records and sampled by global counts.

One item, a transition or a sequence of steps, is one packed record: the arrays of all groups, of the state and of
the masks, one after the other, typed by the environment's spec. Records lie in rows of environment copies,
``(rows, E, record)``, so that an insert writes one contiguous row and a sample is one gather.

Capacity and batch size are global. A rank holds the records of its own copies, each copy in a ring of its own, but
every rank knows how many items every copy has stored. So all ranks draw the same global batch of (copy, item) pairs,
and each returns those whose copy it holds: together they are what one rank would have drawn, bit by bit.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from marl.builders import Placement
from marl.core import Communicator, Dataset, Saveable, State
from marl.errors import InputError
from marl.rate_limiter import SamplesPerInsert
from marl.specs import ArraySpec, ContinuousActions, EnvironmentSpec, GroupSpec
from marl.streams import Stream
from marl.sum_tree import SegmentTrees

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Array = NDArray[Any]

# ---------------------------------------------------------------------------------------------------- items


@dataclass(frozen=True, slots=True, kw_only=True)
class TransitionItems:
    """Items are n-step transitions: one begins at every step, and none reaches over the end of an episode."""

    n_step: int = 1
    """Steps whose rewards are summed before the bootstrap."""

    def __post_init__(self) -> None:
        if self.n_step < 1:
            raise InputError(f"n-step returns need at least 1 step, not {self.n_step}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceItems:
    """Items are up to ``length`` consecutive steps of one episode, padded at its end.

    With ``length`` at least the longest episode, items are whole episodes. Longer episodes go on in further items
    that begin ``period`` steps later. In those, the first ``burn_in`` steps are only there to warm up a recurrent
    state (Kapturowski et al. 2019, "Recurrent experience replay in distributed reinforcement learning", section 3);
    the first item of an episode needs no warming up. By default every step is learned from exactly once.
    """

    length: int
    period: int | None = None
    burn_in: int = 0

    def __post_init__(self) -> None:
        if self.length < 1 or self.burn_in < 0 or not 1 <= self.stride <= self.length - self.burn_in:
            raise InputError(
                f"sequences of length {self.length} with period {self.period} and burn-in {self.burn_in} would leave "
                "steps out: period must be at least 1, and period + burn-in at most the length"
            )

    @property
    def stride(self) -> int:
        """Steps from the beginning of one sequence to the beginning of the next in the same episode."""
        return self.length - self.burn_in if self.period is None else self.period


Items = TransitionItems | SequenceItems


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupTransitions:
    """Transitions of one group's agents. Rows of agents that were not active are not to be learned from."""

    observations: Tensor
    """(B, A, *observation shape)."""
    action_masks: Tensor | None
    """(B, A, mask size) bool."""
    active: Tensor
    """(B, A) bool: who acted."""
    actions: Tensor
    """(B, A, *action shape)."""
    rewards: Tensor
    """(B, A) float32: discounted sum of the agent's rewards over its steps of the window; 0 where not active."""
    discounts: Tensor
    """(B, A) float32: what the agent's value at the next observation counts for; 0 where it terminated."""
    next_observations: Tensor
    """(B, A, *observation shape): at the end of the window, or the agent's last one if its life ended before."""
    next_action_masks: Tensor | None
    """(B, A, mask size) bool."""
    next_active: Tensor
    """(B, A) bool: who acts at the next joint step, or would have acted had the episode not been truncated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transitions:
    """This rank's B transitions of a global batch. Views of storage that the next sample overwrites."""

    groups: Mapping[str, GroupTransitions]
    state: Tensor | None
    """(B, *state shape)."""
    next_state: Tensor | None
    """(B, *state shape)."""
    discounts: Tensor
    """(B,) float32: what the team's value at the next step counts for; 0 where all agents terminated."""
    weights: Tensor
    """(B,) float32 importance weights, at most 1; all 1 in uniform replay."""
    indices: Tensor
    """(B, 2) int64 on the CPU: the item's copy on this rank and its number; for ``update_priorities``."""
    positions: Tensor
    """(B,) int64 ascending: the item's place in the global batch, the index for random numbers of its own."""
    global_batch_size: int
    """Items in the global batch, over all ranks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSequences:
    """Sequences of one group's agents, L steps and L + 1 observations, time first as in GroupTrajectory."""

    observations: Tensor
    """(L+1, B, A, *observation shape); row t + 1 is where step t led, within the same episode."""
    action_masks: Tensor | None
    """(L+1, B, A, mask size) bool; padding is all True."""
    active: Tensor
    """(L+1, B, A) bool; after a truncated episode's last step, who would have acted."""
    actions: Tensor
    """(L, B, A, *action shape)."""
    rewards: Tensor
    """(L, B, A) float32."""
    discounts: Tensor
    """(L, B, A) float32: what the agent's value at row t + 1 counts for; 0 where it terminated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequences:
    """This rank's B sequences of a global batch. Views of storage that the next sample overwrites."""

    groups: Mapping[str, GroupSequences]
    state: Tensor | None
    """(L+1, B, *state shape)."""
    discounts: Tensor
    """(L, B) float32: what the team's value at row t + 1 counts for; 0 where all agents terminated."""
    valid: Tensor
    """(L, B) bool: False in the padding after the episode's end."""
    learn: Tensor
    """(L, B) bool: valid, and not burn-in."""
    weights: Tensor
    """(B,) float32 importance weights, at most 1; all 1 in uniform replay."""
    indices: Tensor
    """(B, 2) int64 on the CPU: the item's copy on this rank and its number; for ``update_priorities``."""
    positions: Tensor
    """(B,) int64 ascending: the item's place in the global batch, the index for random numbers of its own."""
    global_batch_size: int
    """Items in the global batch, over all ranks."""


# --------------------------------------------------------------------------------------------------- layout


class Layout:
    """Where the fields of one record lie.

    Args:
        fields: shape and dtype of every field.

    Attributes:
        payload_bytes: bytes that the fields need.
        record_bytes: bytes that a record takes: the same, and up to 7 to align the next record.
    """

    def __init__(self, fields: Mapping[str, ArraySpec]) -> None:
        self.fields = dict(fields)
        self._places: dict[str, tuple[int, int]] = {}
        offset = 0
        # Wide numbers first: then every field is aligned without gaps.
        for name in sorted(fields, key=lambda name: -fields[name].dtype.itemsize):
            size = fields[name].size * fields[name].dtype.itemsize
            self._places[name] = (offset, offset + size)
            offset += size
        self.payload_bytes = offset
        self.record_bytes = -(-offset // 8) * 8

    @property
    def words(self) -> int:
        """Length of a record in int64 words."""
        return self.record_bytes // 8

    def tensors(self, records: Tensor) -> dict[str, Tensor]:
        """Typed views (..., *field shape) of records (..., words) int64."""
        octets = records.view(torch.uint8)
        views = {}
        for name, (start, stop) in self._places.items():
            spec = self.fields[name]
            views[name] = octets[..., start:stop].view(spec.dtype).unflatten(-1, spec.shape or (1,))
            if not spec.shape:
                views[name] = views[name].squeeze(-1)
        return views


class Staging:
    """Records that are being written, and their fields.

    Args:
        layout: where the fields lie.
        shape: leading dimensions.

    Attributes:
        records: (*shape, words) int64.
        tensors: fields (*shape, *field shape), which share memory with the records.
        arrays: the same as numpy arrays.
    """

    def __init__(self, layout: Layout, shape: tuple[int, ...]) -> None:
        self.records: Ints = np.zeros((*shape, layout.words), np.int64)
        self.tensors = layout.tensors(torch.from_numpy(self.records))
        self.arrays: dict[str, Array] = {name: tensor.numpy() for name, tensor in self.tensors.items()}

    def write(self, values: Mapping[str, Tensor]) -> None:
        """Writes some or all fields at once, each (*shape, *field shape)."""
        # One call for all fields: the cost of a small copy is that of calling it.
        torch._foreach_copy_([self.tensors[name] for name in values], list(values.values()))


def item_layout(spec: EnvironmentSpec, items: Items) -> Layout:
    """The record of one item: fields ``GROUP/NAME`` for the groups, plain names for what is joint."""
    if isinstance(items, TransitionItems):
        fields = _step_fields(spec, (), "") | _step_fields(spec, (), "next_") | _outcome_fields(spec, ())
    else:
        steps = (items.length,)
        flags = {name: ArraySpec(shape=steps, dtype=torch.bool) for name in ("valid", "learn")}
        fields = _step_fields(spec, (items.length + 1,), "") | _outcome_fields(spec, steps) | flags
    return Layout(fields)


def _step_fields(spec: EnvironmentSpec, time: tuple[int, ...], prefix: str) -> dict[str, ArraySpec]:
    fields = {}
    for group in spec.groups:
        rows, name = (*time, group.size), f"{group.name}/{prefix}"
        observation = group.observation
        fields[f"{name}observations"] = ArraySpec(shape=(*rows, *observation.shape), dtype=observation.dtype)
        fields[f"{name}active"] = ArraySpec(shape=rows, dtype=torch.bool)
        if group.masked:
            fields[f"{name}action_masks"] = ArraySpec(shape=(*rows, _mask_size(group)), dtype=torch.bool)
    if spec.state is not None:
        fields[f"{prefix}state"] = ArraySpec(shape=(*time, *spec.state.shape), dtype=spec.state.dtype)
    return fields


def _outcome_fields(spec: EnvironmentSpec, time: tuple[int, ...]) -> dict[str, ArraySpec]:
    fields = {}
    for group in spec.groups:
        rows, action = (*time, group.size), group.action.array
        fields[f"{group.name}/actions"] = ArraySpec(shape=(*rows, *action.shape), dtype=action.dtype)
        fields[f"{group.name}/rewards"] = ArraySpec(shape=rows)
        fields[f"{group.name}/discounts"] = ArraySpec(shape=rows)
    fields["discounts"] = ArraySpec(shape=time)
    return fields


def _mask_size(group: GroupSpec) -> int:
    if isinstance(group.action, ContinuousActions):
        raise InputError(f"group {group.name} has continuous actions, which cannot be masked")
    return group.action.mask_size


# -------------------------------------------------------------------------------------------------- storage


class Replay(Saveable):
    """Preallocated records of this rank's environment copies. Adders write, datasets read.

    A copy's items are numbered from 0; number k lies in row ``k % rows``, so the newest ``rows`` items are stored.

    Args:
        spec: the environment's; states are stored if it has them.
        items: what an item is.
        capacity: items over all copies and ranks; every copy gets an equal share, rounded down.
        num_envs: copies on this rank, E.
        first_copy: global index of the first of them.
        global_num_envs: copies on all ranks; the default is that this rank holds all.
        communicator: connects the ranks; None for one rank.
        save: whether checkpoints hold the records.

    Raises:
        InputError: capacity is below one item a copy, or needs more memory than there is; or the game is
            turn-based: then joint steps are not what agents decide on, and only on-policy algorithms serve.
    """

    def __init__(
        self,
        spec: EnvironmentSpec,
        items: Items,
        *,
        capacity: int,
        num_envs: int,
        first_copy: int = 0,
        global_num_envs: int | None = None,
        communicator: Communicator | None = None,
        save: bool = False,
    ) -> None:
        self.global_num_envs = num_envs if global_num_envs is None else global_num_envs
        if spec.turn_based:
            raise InputError("replay holds joint steps, but this game is turn-based; use an on-policy algorithm")
        if capacity < self.global_num_envs:
            raise InputError(
                f"replay capacity {capacity} is below one item for each of {self.global_num_envs} environment copies; "
                "raise the capacity"
            )
        if communicator is None and num_envs != self.global_num_envs:
            raise ValueError("copies on other ranks need a communicator")
        self.spec, self.items = spec, items
        self.num_envs, self.first_copy = num_envs, first_copy
        self.layout = item_layout(spec, items)
        self.rows = capacity // self.global_num_envs
        self.capacity = self.rows * self.global_num_envs
        self._communicator = communicator
        self.saves = save
        needed, available = self.rows * num_envs * self.layout.record_bytes, available_memory()
        if needed > available:
            raise InputError(
                f"replay of {capacity:,} items needs {needed / 2**30:,.1f} GiB here "
                f"({self.layout.record_bytes:,} bytes an item), but {available / 2**30:,.1f} GiB are free; "
                f"lower the capacity below {int(capacity * available / needed):,}"
            )
        # Allocated by numpy, which asks for huge pages: random reads miss the page table far less often.
        self._records = np.zeros((self.rows, num_envs, self.layout.words), np.int64)
        self._flat = self._records.reshape(-1, self.layout.words)
        self._staging: Staging | None = None
        self.local_counts: Ints = np.zeros(num_envs, np.int64)
        """(E,): items that each copy of this rank has ever committed."""
        self.counts: Ints = np.zeros(self.global_num_envs, np.int64)
        """(global copies,): the same for all copies of all ranks, as of the last ``agree``."""
        self._agreed = True

    @property
    def in_step(self) -> bool:
        """Whether every copy commits one item a step, so that ranks know each other's counts."""
        return isinstance(self.items, TransitionItems)

    @property
    def nbytes(self) -> int:
        """Bytes that the records take."""
        return self._records.nbytes

    @property
    def inserted(self) -> int:
        """Items ever committed over all ranks, as of the last ``agree``."""
        return int(self.counts.sum())

    @property
    def stored(self) -> int:
        """Items stored over all ranks, as of the last ``agree``."""
        return int(self.stored_of_copies.sum())

    @property
    def stored_of_copies(self) -> Ints:
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

    def append(self, records: Ints, copies: Ints | None = None) -> None:
        """Takes finished items; called at every step, on all ranks, also where nothing is finished.

        Args:
            records: (E, words) int64, the copies' records.
            copies: (K,) int64, the copies whose items are finished; None for all.
        """
        if self.in_step:
            # One contiguous write: many times faster than to write the fields where they belong, one by one.
            self._records[int(self.local_counts[0]) % self.rows] = records
            self.local_counts += 1
        else:
            if copies is None:
                copies = np.arange(self.num_envs)
            self._records[self.local_counts[copies] % self.rows, copies] = records[copies]
            self.local_counts[copies] += 1
        self._agreed = False

    def agree(self) -> None:
        """Learns the other ranks' counts: by arithmetic where copies are in step, else by one small all-reduce."""
        if self._agreed:
            return
        if self._communicator is None:
            self.counts[:] = self.local_counts
        elif self.in_step:
            self.counts.fill(self.local_counts[0])
        else:
            self.counts.fill(0)
            self.counts[self.first_copy : self.first_copy + self.num_envs] = self.local_counts
            self._communicator.all_reduce(torch.from_numpy(self.counts))
        self._agreed = True

    def gather(self, copies: Ints, numbers: Ints, out: Ints) -> None:
        """Copies the records of items (copy on this rank, number), (B,) each, into ``out``, (B, words)."""
        np.take(self._flat, numbers % self.rows * self.num_envs + copies, axis=0, out=out, mode="clip")

    def share(self, of_copies: Array) -> Tensor:
        """Joins figures of copies over ranks.

        Args:
            of_copies: (K, E) float64 figures of this rank's copies.

        Returns:
            (K, global copies) float64, equal on all ranks bit by bit.
        """
        if self._communicator is None:
            return torch.from_numpy(of_copies)
        joined = torch.zeros((of_copies.shape[0], self.global_num_envs), dtype=torch.float64)
        joined[:, self.first_copy : self.first_copy + self.num_envs] = torch.from_numpy(of_copies)
        # Zeros are all that is added to a figure, so the sum is exact whatever the number of ranks.
        self._communicator.all_reduce(joined)
        return joined

    def copies_state_dict(self) -> State:
        """The records and counts, (E, rows, words) and (E,) int64, if they are to be saved."""
        if not self.saves:
            return {}
        records = torch.from_numpy(self._records).transpose(0, 1).contiguous()
        return {"records": records, "counts": torch.from_numpy(self.local_counts.copy())}

    def load_copies_state_dict(self, state: State) -> None:
        """Takes back what ``copies_state_dict`` gave; an empty dictionary leaves the replay empty."""
        if not state:
            return
        records = state["records"]
        if records.shape[1:] != (self.rows, self.layout.words):
            raise ValueError(
                f"saved replay holds {records.shape[1]} records of {records.shape[2]} words a copy, "
                f"but this one {self.rows} of {self.layout.words}: capacity, items and spec must be those of the run"
            )
        torch.from_numpy(self._records).copy_(records.transpose(0, 1))
        self.local_counts[:] = state["counts"].numpy()
        self._agreed = False


def as_array(values: Array | Tensor) -> Array:
    """A numpy view of a tensor on the CPU, or a copy of one elsewhere."""
    if isinstance(values, Tensor):
        array: Array = values.numpy() if values.is_cpu and not values.requires_grad else values.detach().cpu().numpy()
        return array
    return values


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


# ------------------------------------------------------------------------------------------------ selection


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """This rank's b items of a global batch."""

    copies: Ints
    """(b,): copies on this rank."""
    numbers: Ints
    """(b,): items of these copies."""
    positions: Ints
    """(b,): places in the global batch, ascending."""
    weights: Floats | None
    """(b,) importance weights; None where all are 1."""


class Selector(Saveable, ABC):
    """Draws the items of a global batch; all ranks draw the same."""

    @abstractmethod
    def available(self) -> int:
        """Items that can be drawn now, over all ranks."""

    @abstractmethod
    def select(self, batch_size: int, step: int) -> Selection:
        """Draws this rank's share of global batch number ``step``."""

    def update(self, indices: Ints, priorities: Floats) -> None:
        """Takes new priorities of items, where the selector knows priorities; see ``PrioritizedSelector``."""


class _Draws:
    """Random words of consecutive global batches, made for many batches at once."""

    _ROWS: Final = 32

    def __init__(self, seed: int) -> None:
        self._stream = Stream(seed, "replay")
        self._words = np.empty((0, 0), np.int64)
        self._first = 0

    def __call__(self, step: int, count: int) -> Ints:
        """(count,) words in [0, 2³²) for one batch."""
        row = step - self._first
        if not 0 <= row < len(self._words) or self._words.shape[1] != count:
            self._words = self._stream.words(step, count, rows=self._ROWS)[:, 0].numpy()
            self._first, row = step, 0
        words: Ints = self._words[row]
        return words


class UniformSelector(Selector):
    """All stored items are equally likely, with replacement (up to 2⁻³² of the number of items)."""

    def __init__(self, replay: Replay, *, seed: int) -> None:
        self._replay = replay
        self._draw = _Draws(seed)

    def available(self) -> int:
        """All stored items."""
        return self._replay.stored

    def select(self, batch_size: int, step: int) -> Selection:
        """Draws with replacement."""
        stored = self._replay.stored_of_copies
        ends = np.cumsum(stored)
        places = self._draw(step, batch_size) * ends[-1] >> 32
        copies = np.searchsorted(ends, places, side="right")
        numbers = places - ends[copies] + self._replay.counts[copies]
        return _local(self._replay, copies, numbers)


class FifoSelector(Selector):
    """Every item once, oldest first; among items of one age, by copy."""

    def __init__(self, replay: Replay) -> None:
        self._replay = replay
        self._taken: Ints = np.zeros(replay.global_num_envs, np.int64)

    def _next(self) -> Ints:
        # Items that were overwritten unread are gone; a dataset that is asked before every step reads them in time.
        first: Ints = np.maximum(self._taken, self._replay.counts - self._replay.stored_of_copies)
        return first

    def available(self) -> int:
        """Items not drawn yet."""
        return int((self._replay.counts - self._next()).sum())

    def select(self, batch_size: int, step: int) -> Selection:
        """Takes the oldest items that were not drawn yet."""
        first = self._next()
        copies, numbers = ranges(first, np.minimum(self._replay.counts, first + batch_size))
        order = np.lexsort((copies, numbers))[:batch_size]
        copies, numbers = copies[order], numbers[order]
        self._taken = first + np.bincount(copies, minlength=len(first))
        return _local(self._replay, copies, numbers)

    def state_dict(self) -> State:
        """How many items of every copy were drawn."""
        return {"taken": torch.from_numpy(self._taken.copy())}

    def load_state_dict(self, state: State) -> None:
        """Takes them back."""
        self._taken = state["taken"].numpy().copy()


@dataclass(frozen=True, slots=True, kw_only=True)
class Priorities:
    """How priorities shape sampling (Schaul et al. 2016, "Prioritized experience replay", equations 1 and 2)."""

    alpha: float = 0.6
    """Items are drawn with probability proportional to priority ** alpha; 0 is uniform."""
    beta: float = 0.4
    """Importance weights are the inverse probability ** beta, at first."""
    final_beta: float = 1.0
    anneal_batches: int = 100_000
    """Batches over which beta goes from its first to its final value."""
    epsilon: float = 1e-6
    """Added to absolute errors, so that no item is lost for ever."""

    def __post_init__(self) -> None:
        if not (self.alpha >= 0 and 0 <= self.beta <= 1 and 0 <= self.final_beta <= 1 and self.epsilon > 0):
            raise InputError("priorities need alpha >= 0, beta and final beta within [0, 1], and epsilon > 0")
        if self.anneal_batches < 1:
            raise InputError(f"anneal batches must be at least 1, not {self.anneal_batches}")


class PrioritizedSelector(Selector):
    """Items are drawn in proportion to their priorities, one from each of equal strata of the total.

    Every copy has a tree of its own, and only the copies' totals travel between ranks. They are summed in the order
    of copies, so the draw does not depend on the number of ranks, not even by rounding. New items have the largest
    priority that was ever seen, at least 1.
    """

    def __init__(self, replay: Replay, *, seed: int, priorities: Priorities) -> None:
        self._replay = replay
        self._config = priorities
        self._draw = _Draws(seed)
        self._sums = SegmentTrees(replay.num_envs, replay.rows, "sum")
        self._minima = SegmentTrees(replay.num_envs, replay.rows, "min")
        self._seen: Ints = np.zeros(replay.num_envs, np.int64)
        self._largest: Floats = np.ones(replay.num_envs)
        self._new_priority = 1.0

    def available(self) -> int:
        """All stored items."""
        return self._replay.stored

    def select(self, batch_size: int, step: int) -> Selection:
        """Draws one item from each of ``batch_size`` equal parts of the sum of priorities."""
        replay, config = self._replay, self._config
        self._absorb()
        shared = replay.share(np.stack((self._sums.roots, self._minima.roots, self._largest))).numpy()
        totals, minimum = shared[0], shared[1].min()
        self._new_priority = float(shared[2].max())
        ends = np.cumsum(totals)
        strata = (np.arange(batch_size) + (self._draw(step, batch_size) + 0.5) * 2.0**-32) / batch_size
        values = strata * ends[-1]
        # Rounding may carry a value to the very end: then it belongs to the last copy that has a total.
        copies = np.minimum(np.searchsorted(ends, values, side="right"), np.flatnonzero(totals)[-1])
        values -= (ends - totals)[copies]
        positions = _mine(replay, copies)
        copies = copies[positions] - replay.first_copy
        leaves = self._sums.find(copies, np.maximum(values[positions], 0.0))
        oldest = replay.local_counts[copies] - np.minimum(replay.local_counts[copies], replay.rows)
        beta = config.beta + (config.final_beta - config.beta) * min(1.0, step / config.anneal_batches)
        return Selection(
            copies=copies,
            numbers=oldest + (leaves - oldest) % replay.rows,
            positions=positions,
            weights=(minimum / self._sums.leaves[copies, leaves]) ** beta,
        )

    def update(self, indices: Ints, priorities: Floats) -> None:
        """Takes new priorities of items of this rank.

        Items that were overwritten in the meantime, and priorities that are not finite, are left out.

        Args:
            indices: (b, 2) int64 from the sample.
            priorities: (b,) absolute errors.
        """
        copies, numbers = indices[:, 0], indices[:, 1]
        values = (np.abs(priorities.astype(np.float64)) + self._config.epsilon) ** self._config.alpha
        keep = np.isfinite(values) & (numbers >= self._replay.local_counts[copies] - self._replay.rows)
        self._set(copies[keep], numbers[keep], values[keep])
        np.maximum.at(self._largest, copies[keep], values[keep])

    def _absorb(self) -> None:
        counts = self._replay.local_counts
        copies, numbers = ranges(np.maximum(self._seen, counts - self._replay.rows), counts)
        self._set(copies, numbers, np.full(len(copies), self._new_priority))
        self._seen[:] = counts

    def _set(self, copies: Ints, numbers: Ints, values: Floats) -> None:
        # Number k replaces number k - rows, which has just left the store.
        leaves = numbers % self._replay.rows
        self._sums.set(copies, leaves, values)
        self._minima.set(copies, leaves, values)

    def state_dict(self) -> State:
        """The priority of new items."""
        return {"new_priority": torch.tensor(self._new_priority, dtype=torch.float64)}

    def load_state_dict(self, state: State) -> None:
        """Takes it back."""
        self._new_priority = float(state["new_priority"])

    def copies_state_dict(self) -> State:
        """The copies' priorities, (E, rows) float64, and what is known of each."""
        return {
            "priorities": torch.from_numpy(self._sums.leaves.copy()),
            "seen": torch.from_numpy(self._seen.copy()),
            "largest": torch.from_numpy(self._largest.copy()),
        }

    def load_copies_state_dict(self, state: State) -> None:
        """Takes them back."""
        leaves = state["priorities"].numpy()
        self._sums.set_all(leaves)
        self._minima.set_all(np.where(leaves > 0, leaves, np.inf))
        self._seen[:] = state["seen"].numpy()
        self._largest[:] = state["largest"].numpy()


def ranges(starts: Ints, stops: Ints) -> tuple[Ints, Ints]:
    """The integers of several ranges, and to which range each belongs: two (K,) int64 arrays (owner, integer)."""
    lengths = np.maximum(stops - starts, 0)
    owners = np.repeat(np.arange(len(lengths)), lengths)
    return owners, np.arange(len(owners)) - np.repeat(np.cumsum(lengths) - lengths - starts, lengths)


def _mine(replay: Replay, copies: Ints) -> Ints:
    """Positions in a global batch that belong to this rank's copies."""
    if replay.num_envs == replay.global_num_envs:
        return np.arange(len(copies))
    return np.flatnonzero((copies >= replay.first_copy) & (copies < replay.first_copy + replay.num_envs))


def _local(replay: Replay, copies: Ints, numbers: Ints) -> Selection:
    positions = _mine(replay, copies)
    return Selection(
        copies=copies[positions] - replay.first_copy, numbers=numbers[positions], positions=positions, weights=None
    )


# -------------------------------------------------------------------------------------------------- dataset

ReplaySample = TypeVar("ReplaySample")


class ReplayDataset(Dataset[ReplaySample], Generic[ReplaySample]):
    """Samples of replay, let through by a rate limiter; ``TransitionDataset`` and ``SequenceDataset`` say of what.

    Args:
        replay: where the items are.
        selector: draws them.
        limiter: says when; None only for first-in-first-out, which is limited by what was inserted.
        batch_size: items a sample, over all ranks.
        device: where samples are wanted.

    Raises:
        InputError: replay can never hold one batch, or the limiter never lets one through.
    """

    def __init__(
        self,
        replay: Replay,
        selector: Selector,
        limiter: SamplesPerInsert | None,
        *,
        batch_size: int,
        device: torch.device | str = "cpu",
    ) -> None:
        if batch_size < 1:
            raise InputError(f"batch size must be at least 1, not {batch_size}")
        if batch_size > replay.capacity:
            raise InputError(f"a batch of {batch_size} never fits into a replay capacity of {replay.capacity}")
        if isinstance(selector, FifoSelector):
            if limiter is not None:
                raise InputError("first-in-first-out replay samples every item once; leave samples per insert out")
            if batch_size + replay.global_num_envs > replay.capacity:
                raise InputError(
                    f"first-in-first-out replay of {replay.capacity} items would lose some before a batch of "
                    f"{batch_size} is full; it needs {batch_size + replay.global_num_envs}"
                )
        elif limiter is None:
            raise InputError("sampling with replacement needs samples per insert, or learning would never pause")
        elif limiter.min_size > replay.capacity:
            raise InputError(f"learning begins at {limiter.min_size} items, but replay holds {replay.capacity}")
        elif (limiter.batch_size, limiter.insert_size) != (batch_size, replay.global_num_envs):
            raise ValueError("the limiter was made for another batch size or number of copies")
        self.replay, self.selector, self.limiter = replay, selector, limiter
        self.batch_size = batch_size
        self._device = torch.device(device)
        self._samples = 0
        self._draws = 0
        self._buffer = torch.empty(
            (batch_size, replay.layout.words), dtype=torch.int64, pin_memory=self._device.type == "cuda"
        )
        self._out: Ints = self._buffer.numpy()
        self._ones = torch.ones(batch_size, device=self._device)
        self._whole = replay.layout.tensors(self._buffer)

    @property
    def samples(self) -> int:
        """Items sampled over all ranks, since replay was last empty."""
        return self._samples

    def ready(self) -> bool:
        """Whether a whole batch is there and the limiter lets it through. Collective: call it on all ranks."""
        self.replay.agree()
        if self.selector.available() < self.batch_size:
            return False
        return self.limiter is None or self.limiter.can_sample(self.replay.inserted, self._samples)

    def sample(self) -> ReplaySample:
        """This rank's share of the next global batch; it may be empty. Collective.

        Raises:
            ValueError: fewer items are stored than one batch.
        """
        self.replay.agree()
        if (available := self.selector.available()) < self.batch_size:
            raise ValueError(f"a batch of {self.batch_size} was asked of {available} items; ask ready() first")
        selection = self.selector.select(self.batch_size, self._draws)
        self._draws += 1
        self._samples += self.batch_size
        count = len(selection.copies)
        self.replay.gather(selection.copies, selection.numbers, self._out[:count])
        if self._device.type != "cpu":
            # The whole record travels at once.
            fields = self.replay.layout.tensors(self._buffer[:count].to(self._device))
        elif count < self.batch_size:
            fields = {name: field[:count] for name, field in self._whole.items()}
        else:
            fields = self._whole
        return self._assemble(fields, selection)

    def update_priorities(self, indices: Tensor, priorities: Tensor) -> None:
        """Gives items of the last sample new priorities; does nothing where the selector has none.

        Args:
            indices: (B, 2) int64 from the sample.
            priorities: (B,) absolute errors, of whatever sign.
        """
        self.selector.update(as_array(indices), as_array(priorities))

    @abstractmethod
    def _assemble(self, fields: Mapping[str, Tensor], selection: Selection) -> ReplaySample:
        """Makes the sample of fields (B, *field shape)."""

    def _weights(self, selection: Selection) -> Tensor:
        if selection.weights is None:
            return self._ones[: len(selection.copies)]
        return torch.from_numpy(selection.weights.astype(np.float32)).to(self._device)

    def _indices(self, selection: Selection) -> Tensor:
        return torch.from_numpy(np.stack((selection.copies, selection.numbers), axis=1))

    def _positions(self, selection: Selection) -> Tensor:
        return torch.from_numpy(selection.positions).to(self._device)

    def state_dict(self) -> State:
        """The number of batches drawn; and, if the records are saved, what is known of them on all ranks."""
        if not self.replay.saves:
            return {"draws": torch.tensor(self._draws)}
        counts = {"draws": torch.tensor(self._draws), "samples": torch.tensor(self._samples)}
        return counts | _dotted("selector", self.selector.state_dict())

    def load_state_dict(self, state: State) -> None:
        """Takes them back. Without saved records replay is filled anew, so its limiter begins anew too."""
        self._draws = int(state["draws"])
        if "samples" in state:
            self._samples = int(state["samples"])
            self.selector.load_state_dict(_under("selector", state))

    def copies_state_dict(self) -> State:
        """Replay's records, and what the selector knows of them, if they are to be saved."""
        if not self.replay.saves:
            return {}
        selector = self.selector.copies_state_dict()
        return _dotted("replay", self.replay.copies_state_dict()) | _dotted("selector", selector)

    def load_copies_state_dict(self, state: State) -> None:
        """Takes the records back; an empty dictionary leaves replay empty."""
        if state:
            self.replay.load_copies_state_dict(_under("replay", state))
            self.selector.load_copies_state_dict(_under("selector", state))


class TransitionDataset(ReplayDataset[Transitions]):
    """Batches of transitions; see ``ReplayDataset``."""

    def _assemble(self, fields: Mapping[str, Tensor], selection: Selection) -> Transitions:
        groups = {
            group.name: GroupTransitions(
                observations=fields[f"{group.name}/observations"],
                action_masks=fields.get(f"{group.name}/action_masks"),
                active=fields[f"{group.name}/active"],
                actions=fields[f"{group.name}/actions"],
                rewards=fields[f"{group.name}/rewards"],
                discounts=fields[f"{group.name}/discounts"],
                next_observations=fields[f"{group.name}/next_observations"],
                next_action_masks=fields.get(f"{group.name}/next_action_masks"),
                next_active=fields[f"{group.name}/next_active"],
            )
            for group in self.replay.spec.groups
        }
        return Transitions(
            groups=groups,
            state=fields.get("state"),
            next_state=fields.get("next_state"),
            discounts=fields["discounts"],
            weights=self._weights(selection),
            indices=self._indices(selection),
            positions=self._positions(selection),
            global_batch_size=self.batch_size,
        )


class SequenceDataset(ReplayDataset[Sequences]):
    """Batches of sequences; see ``ReplayDataset``."""

    def _assemble(self, fields: Mapping[str, Tensor], selection: Selection) -> Sequences:
        fields = {name: field.transpose(0, 1) for name, field in fields.items()}
        groups = {
            group.name: GroupSequences(
                observations=fields[f"{group.name}/observations"],
                action_masks=fields.get(f"{group.name}/action_masks"),
                active=fields[f"{group.name}/active"],
                actions=fields[f"{group.name}/actions"],
                rewards=fields[f"{group.name}/rewards"],
                discounts=fields[f"{group.name}/discounts"],
            )
            for group in self.replay.spec.groups
        }
        return Sequences(
            groups=groups,
            state=fields.get("state"),
            discounts=fields["discounts"],
            valid=fields["valid"],
            learn=fields["learn"],
            weights=self._weights(selection),
            indices=self._indices(selection),
            positions=self._positions(selection),
            global_batch_size=self.batch_size,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayConfig:
    """The usual choices about replay, for the configs of off-policy algorithms. Counts are global."""

    capacity: int = 1_000_000
    """Items stored, over all copies and ranks."""
    batch_size: int = 1024
    """Items a sample, over all ranks."""
    samples_per_insert: float = 8.0
    """Items sampled for every item inserted."""
    min_size: int = 5_000
    """Items inserted before learning begins."""
    tolerance: float | None = None
    """How far sampling and inserting may part, in samples; see ``SamplesPerInsert``."""
    priorities: Priorities | None = None
    """Prioritised instead of uniform sampling."""
    checkpoint: bool = False
    """Whether checkpoints hold the items, so that a resumed run need not gather them anew."""

    def make_dataset(self, spec: EnvironmentSpec, items: Items, placement: Placement) -> ReplayDataset[Any]:
        """Replay on this rank and its dataset: of transitions or of sequences, as ``items`` says.

        Raises:
            InputError: as ``Replay``, ``SamplesPerInsert`` and ``ReplayDataset``.
        """
        replay = Replay(
            spec,
            items,
            capacity=self.capacity,
            num_envs=placement.num_envs,
            first_copy=placement.first_copy,
            global_num_envs=placement.total_envs,
            communicator=placement.communicator,
            save=self.checkpoint,
        )
        kind = TransitionDataset if isinstance(items, TransitionItems) else SequenceDataset
        selector, limiter = self.make_selector(replay, seed=placement.seed), self.make_limiter(replay)
        return kind(replay, selector, limiter, batch_size=self.batch_size, device=placement.device)

    def make_selector(self, replay: Replay, *, seed: int) -> Selector:
        """The uniform or prioritised selector."""
        if self.priorities is None:
            return UniformSelector(replay, seed=seed)
        return PrioritizedSelector(replay, seed=seed, priorities=self.priorities)

    def make_limiter(self, replay: Replay) -> SamplesPerInsert:
        """The rate limiter.

        Raises:
            InputError: the ratio cannot be held.
        """
        return SamplesPerInsert(
            ratio=self.samples_per_insert,
            min_size=self.min_size,
            batch_size=self.batch_size,
            insert_size=replay.global_num_envs,
            tolerance=self.tolerance,
        )


def _dotted(prefix: str, state: State) -> State:
    return {f"{prefix}.{name}": value for name, value in state.items()}


def _under(prefix: str, state: State) -> State:
    return {name[len(prefix) + 1 :]: value for name, value in state.items() if name.startswith(f"{prefix}.")}
