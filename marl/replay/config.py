"""Options of replay: from a configuration to the dataset of this rank."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from marl.builders import RunContext
from marl.errors import InputError
from marl.replay.datasets import ReplayDataset, SequenceDataset, TransitionDataset
from marl.replay.items import Items, TransitionItems
from marl.replay.rate_limiter import SamplesPerInsert
from marl.replay.selectors import Priorities, PrioritizedSelector, Selector, UniformSelector
from marl.replay.storage import Replay
from marl.specs import EnvironmentSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayConfig:
    """Options of replay, for the configs of off-policy algorithms. Counts are global."""

    capacity: int = 1_000_000
    """Items stored, over all copies and ranks."""
    batch_size: int = 1024
    """Items a sample, over all ranks."""
    samples_per_insert: float = 8.0
    """Items sampled for every item inserted."""
    min_size: int = 5_000
    """Items inserted before learning begins."""
    tolerance: float | None = None
    """Half width of the window of samples per insert, in samples; see ``SamplesPerInsert``."""
    priorities: Priorities | None = None
    """Prioritised instead of uniform sampling."""
    checkpoint: bool = False
    """Whether checkpoints hold the items, so that a resumed run need not gather them anew."""

    def make_dataset(self, spec: EnvironmentSpec, items: Items, context: RunContext) -> ReplayDataset[Any]:
        """Replay on this rank and its dataset: of transitions or of sequences, as ``items`` says.

        Raises:
            InputError: as ``Replay``, ``SamplesPerInsert`` and ``ReplayDataset``; or the experiment is too short for
                learning to begin.
        """
        self._check_length(items, context)
        replay = Replay(
            spec,
            items,
            capacity=self.capacity,
            num_envs=context.num_envs,
            first_env=context.first_env,
            global_num_envs=context.total_envs,
            communicator=context.communicator,
            save=self.checkpoint,
        )
        kind = TransitionDataset if isinstance(items, TransitionItems) else SequenceDataset
        selector, limiter = self.make_selector(replay, seed=context.seed), self.make_limiter(replay)
        return kind(replay, selector, limiter, batch_size=self.batch_size, device=context.device)

    def _check_length(self, items: Items, context: RunContext) -> None:
        """Refuses an experiment that ends before the first batch."""
        # Copies step together, so there may be a few steps more than asked for; an item of n steps takes n to finish.
        rows = -(-context.learner_steps // context.total_envs)
        late = items.n_step - 1 if isinstance(items, TransitionItems) else 0
        most = max(0, rows - late) * context.total_envs
        more = "--steps" if context.learner_steps == context.total_steps else "the steps between restarts"
        for name, needed in (("min-size", self.min_size), ("batch-size", self.batch_size)):
            if needed > most:
                raise InputError(
                    f"learning would never begin: it waits for {needed:,} items of replay, but "
                    f"{context.learner_steps:,} steps make {most:,} at most; raise {more} "
                    f"or lower --algorithm.replay.{name}"
                )

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
