"""Selection of a batch's items: uniform, prioritised, or first in, first out. All ranks draw alike."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch

from marl.core import Saveable, State
from marl.errors import InputError
from marl.random_streams import Stream
from marl.replay.storage import Replay
from marl.replay.sum_tree import SegmentTrees
from marl.types import Floats, Integers


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """This rank's b items of a global batch."""

    envs: Integers
    """(b,): copies on this rank."""
    numbers: Integers
    """(b,): items of these copies."""
    positions: Integers
    """(b,): places in the global batch, ascending."""
    weights: Floats | None
    """(b,) importance weights; None where all are 1."""


class Selector(Saveable, ABC):
    """Draws the items of a global batch; all ranks draw the same."""

    without_replacement: bool = False
    """Whether every item is drawn once, so that inserts alone limit sampling."""

    @abstractmethod
    def available(self) -> int:
        """Items that can be drawn now, over all ranks."""

    @abstractmethod
    def select(self, batch_size: int, step: int) -> Selection:
        """Draws this rank's share of global batch number ``step``."""

    def update(self, indices: Integers, priorities: Floats) -> None:
        """Updates priorities of items, where the selector has any; see ``PrioritizedSelector``."""

    def clear(self) -> None:
        """Forgets all items, when replay does."""


class BatchDraws:
    """Random words of consecutive global batches, made for many batches at once.

    Args:
        seed: the experiment's.
        purpose: of the batches.
    """

    _ROWS: Final = 32

    def __init__(self, seed: int, purpose: str = "replay") -> None:
        self._stream = Stream(seed, purpose)
        self._words = np.empty((0, 0), np.int64)
        self._first = 0

    def __call__(self, step: int, count: int) -> Integers:
        """(count,) words in [0, 2³²) for one batch."""
        row = step - self._first
        if not 0 <= row < len(self._words) or self._words.shape[1] != count:
            self._words = self._stream.words(step, count, rows=self._ROWS)[:, 0].numpy()
            self._first, row = step, 0
        words: Integers = self._words[row]
        return words


class UniformSelector(Selector):
    """All stored items are equally likely, with replacement (up to 2⁻³² of the number of items)."""

    def __init__(self, replay: Replay, *, seed: int) -> None:
        self._replay = replay
        self._draw = BatchDraws(seed)

    def available(self) -> int:
        """All stored items."""
        return self._replay.stored

    def select(self, batch_size: int, step: int) -> Selection:
        """Draws with replacement."""
        stored = self._replay.stored_of_envs
        ends = np.cumsum(stored)
        places = self._draw(step, batch_size) * ends[-1] >> 32
        envs = np.searchsorted(ends, places, side="right")
        numbers = places - ends[envs] + self._replay.counts[envs]
        return _local_selection(self._replay, envs, numbers)


class FifoSelector(Selector):
    """Every item once, oldest first; among items of one age, by copy."""

    without_replacement = True

    def __init__(self, replay: Replay) -> None:
        self._replay = replay
        self._taken: Integers = np.zeros(replay.global_num_envs, np.int64)

    def _next(self) -> Integers:
        # Items that were overwritten unread are gone; a dataset that is sampled at every step reads them in time.
        first: Integers = np.maximum(self._taken, self._replay.counts - self._replay.stored_of_envs)
        return first

    def available(self) -> int:
        """Items not drawn yet."""
        return int((self._replay.counts - self._next()).sum())

    def select(self, batch_size: int, step: int) -> Selection:
        """Draws the oldest items that were not drawn yet."""
        first = self._next()
        envs, numbers = ranges(first, np.minimum(self._replay.counts, first + batch_size))
        order = np.lexsort((envs, numbers))[:batch_size]
        envs, numbers = envs[order], numbers[order]
        self._taken = first + np.bincount(envs, minlength=len(first))
        return _local_selection(self._replay, envs, numbers)

    def clear(self) -> None:
        self._taken.fill(0)

    def state_dict(self) -> State:
        """The numbers of items drawn from each copy."""
        return {"taken": torch.from_numpy(self._taken.copy())}

    def load_state_dict(self, state: State) -> None:
        self._taken = state["taken"].numpy().copy()


@dataclass(frozen=True, slots=True, kw_only=True)
class Priorities:
    """Options of prioritised sampling (Schaul et al. 2016, "Prioritized experience replay", equations 1 and 2)."""

    alpha: float = 0.6
    """Items are drawn with probability proportional to priority ** alpha; 0 is uniform."""
    beta: float = 0.4
    """Importance weights are the inverse probability ** beta, at first."""
    final_beta: float = 1.0
    """Exponent of importance weights after ``anneal_batches``."""
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
    priority that was ever seen, at least 1. Items in which nobody acted, of turns that are not finished or were
    another player's, teach nothing: they have the least priority, of an error of 0, and no part in the weights.
    """

    def __init__(self, replay: Replay, *, seed: int, priorities: Priorities) -> None:
        self._replay = replay
        self._config = priorities
        self._draw = BatchDraws(seed)
        self._sums = SegmentTrees(replay.num_envs, replay.rows, "sum")
        self._minima = SegmentTrees(replay.num_envs, replay.rows, "min")
        self._seen: Integers = np.zeros(replay.num_envs, np.int64)
        self._largest: Floats = np.ones(replay.num_envs)
        self._new_priority = 1.0

    def available(self) -> int:
        """All stored items."""
        return self._replay.stored

    def select(self, batch_size: int, step: int) -> Selection:
        """Draws one item from each of ``batch_size`` equal parts of the sum of priorities."""
        replay, config = self._replay, self._config
        self._add_new_items()
        shared = replay.share(np.stack((self._sums.roots, self._minima.roots, self._largest))).numpy()
        totals, minimum = shared[0], shared[1].min()
        self._new_priority = float(shared[2].max())
        ends = np.cumsum(totals)
        strata = (np.arange(batch_size) + (self._draw(step, batch_size) + 0.5) * 2.0**-32) / batch_size
        values = strata * ends[-1]
        # Rounding may carry a value to the very end: then it belongs to the last copy that has a total.
        envs = np.minimum(np.searchsorted(ends, values, side="right"), np.flatnonzero(totals)[-1])
        values -= (ends - totals)[envs]
        positions = _local_positions(replay, envs)
        envs = envs[positions] - replay.first_env
        leaves = self._sums.find(envs, np.maximum(values[positions], 0.0))
        oldest = replay.local_counts[envs] - np.minimum(replay.local_counts[envs], replay.rows)
        beta = config.beta + (config.final_beta - config.beta) * min(1.0, step / config.anneal_batches)
        return Selection(
            envs=envs,
            numbers=oldest + (leaves - oldest) % replay.rows,
            positions=positions,
            weights=np.minimum(minimum / self._sums.leaves[envs, leaves], 1.0) ** beta,
        )

    def update(self, indices: Integers, priorities: Floats) -> None:
        """Updates priorities of items of this rank.

        Items that were overwritten in the meantime, and priorities that are not finite, are left out.

        Args:
            indices: (b, 2) int64 from the sample.
            priorities: (b,) absolute errors.
        """
        envs, numbers = indices[:, 0], indices[:, 1]
        values = (np.abs(priorities.astype(np.float64)) + self._config.epsilon) ** self._config.alpha
        keep = np.isfinite(values) & (numbers >= self._replay.local_counts[envs] - self._replay.rows)
        self._set(envs[keep], numbers[keep], values[keep])
        np.maximum.at(self._largest, envs[keep], values[keep])

    def clear(self) -> None:
        self._sums.set_all(np.zeros_like(self._sums.leaves))
        self._minima.set_all(np.full_like(self._minima.leaves, np.inf))
        self._seen.fill(0)
        self._largest.fill(1.0)
        self._new_priority = 1.0

    def _add_new_items(self) -> None:
        counts = self._replay.local_counts
        envs, numbers = ranges(np.maximum(self._seen, counts - self._replay.rows), counts)
        self._set(envs, numbers, np.full(len(envs), self._new_priority))
        self._seen[:] = counts

    def _set(self, envs: Integers, numbers: Integers, values: Floats) -> None:
        # Number k replaces number k - rows, which has just left the store.
        leaves = numbers % self._replay.rows
        acted = self._replay.acted(envs, numbers)
        self._sums.set(envs, leaves, np.where(acted, values, self._config.epsilon**self._config.alpha))
        self._minima.set(envs, leaves, np.where(acted, values, np.inf))

    def state_dict(self) -> State:
        """The priority of new items."""
        return {"new_priority": torch.tensor(self._new_priority, dtype=torch.float64)}

    def load_state_dict(self, state: State) -> None:
        self._new_priority = float(state["new_priority"])

    def env_state_dict(self) -> State:
        """The copies' priorities, (E, rows) float64; numbers of items seen, and largest priorities, (E,)."""
        return {
            "priorities": torch.from_numpy(self._sums.leaves.copy()),
            "seen": torch.from_numpy(self._seen.copy()),
            "largest": torch.from_numpy(self._largest.copy()),
        }

    def load_env_state_dict(self, state: State) -> None:
        leaves = state["priorities"].numpy()
        self._sums.set_all(leaves)
        acted = self._replay.acted(np.arange(len(leaves))[:, np.newaxis], np.arange(leaves.shape[1]))
        self._minima.set_all(np.where((leaves > 0) & acted, leaves, np.inf))
        self._seen[:] = state["seen"].numpy()
        self._largest[:] = state["largest"].numpy()


def ranges(starts: Integers, stops: Integers) -> tuple[Integers, Integers]:
    """The integers of several ranges, with the range of each: two (K,) int64 arrays (range, integer)."""
    lengths = np.maximum(stops - starts, 0)
    owners = np.repeat(np.arange(len(lengths)), lengths)
    return owners, np.arange(len(owners)) - np.repeat(np.cumsum(lengths) - lengths - starts, lengths)


def _local_positions(replay: Replay, envs: Integers) -> Integers:
    """Positions in a global batch that belong to this rank's copies."""
    if replay.num_envs == replay.global_num_envs:
        return np.arange(len(envs))
    return np.flatnonzero((envs >= replay.first_env) & (envs < replay.first_env + replay.num_envs))


def _local_selection(replay: Replay, envs: Integers, numbers: Integers) -> Selection:
    positions = _local_positions(replay, envs)
    return Selection(
        envs=envs[positions] - replay.first_env, numbers=numbers[positions], positions=positions, weights=None
    )
