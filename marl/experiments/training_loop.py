"""The training loop of experiments and leagues: rows of metrics, evaluations and checkpoints at their times."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Final

import torch
from torch import Tensor

from marl.acting.evaluation import Evaluation
from marl.checkpoints.checkpoint import Checkpoint
from marl.checkpoints.checkpointer import AsyncCheckpointer, Checkpointer
from marl.core import Communicator, Metrics, State
from marl.counters import Counter
from marl.distributed.replica_checks import assert_replicas_equal
from marl.experiments.config import Result, Schedule
from marl.experiments.resource_usage import Usage
from marl.loggers.base import Logger, NullLogger
from marl.progress import Progress, unwatched
from marl.specs import EnvironmentSpec

CHECK_UPDATES: Final = 500
"""Updates between two comparisons of the ranks' replicas: a hash of 100,000 parameters takes 0.4 ms, an update 2 or
more."""
FINAL: Final = "evaluation/final_env_steps"
"""Metric of the last row only, that of the final evaluation: environment steps of training."""


class TrainingTask(ABC):
    """An experiment, or a league of several, as a training loop sees it.

    Attributes:
        communicator: the ranks.
        counter: environment steps, updates and episodes so far.
        resumed: whether a checkpoint was loaded.
        progress: told of evaluations, measurements and other work between updates, on each rank.
    """

    communicator: Communicator
    counter: Counter
    resumed: bool = False
    progress: Progress = staticmethod(unwatched)

    @property
    @abstractmethod
    def schedule(self) -> Schedule:
        """The steps to do, and the times of evaluations, checkpoints and rows."""

    @property
    @abstractmethod
    def spec(self) -> EnvironmentSpec:
        """The environment's spec."""

    @property
    @abstractmethod
    def num_parameters(self) -> int:
        """Number of the learner's parameters; in a league, of the main player's."""

    @property
    @abstractmethod
    def refills(self) -> bool:
        """True if a checkpoint was loaded that does not hold replay, which starts empty."""

    @property
    @abstractmethod
    def stopped(self) -> bool:
        """True if some rank has asked to stop; the same on all ranks."""

    @property
    def at_boundary(self) -> bool:
        """True if all experience that was gathered for an update has been learned from."""
        return True

    @abstractmethod
    def start(self) -> None:
        """Starts new episodes in all environments, unless a checkpoint was loaded."""

    @abstractmethod
    def advance(self, should_stop: Callable[[], bool] = lambda: False) -> Metrics | None:
        """Acts, and performs the updates that this allows.

        Args:
            should_stop: asked before every update; ``stopped`` tells if any rank said yes.

        Returns:
            The last update's metrics; None if there was none.
        """

    @abstractmethod
    def measure_if_due(self) -> Metrics | None:
        """Measures the policies if it is time to; metrics on rank 0, None on all ranks if it is not."""

    @abstractmethod
    def reduce_statistics(self) -> Metrics:
        """Counts the episodes since the last call, and returns their statistics, reduced over ranks. Collective."""

    @abstractmethod
    def evaluate(self, *, final: bool = True) -> Evaluation:
        """Plays episodes with the current policies; complete on rank 0. Collective.

        Args:
            final: play all modes, and against random moves where sides are opposed; else the headline's mode only.
        """

    @abstractmethod
    def replicas(self) -> Iterable[Tensor]:
        """Yields what must be the same on all ranks: counters, parameters and normalisers, in a fixed order."""

    @abstractmethod
    def learner_state(self) -> State:
        """Returns the learner's state; in a league, the main player's."""

    @abstractmethod
    def save(self, checkpointer: Checkpointer | AsyncCheckpointer | None) -> None:
        """Saves, on rank 0, everything that decides the future. Collective; at an update boundary.

        Args:
            checkpointer: needed on rank 0 only.
        """

    @abstractmethod
    def load(self, checkpoint: Checkpoint) -> None:
        """Resumes from a checkpoint, on any number of ranks.

        Raises:
            InputError: the checkpoint does not fit.
        """

    @abstractmethod
    def close(self) -> None:
        """Closes the environments."""

    def run(
        self,
        logger: Logger | None = None,
        checkpointer: Checkpointer | AsyncCheckpointer | None = None,
        should_stop: Callable[[], bool] = lambda: False,
        at_boundary: Callable[[], object] = lambda: None,
    ) -> Result:
        """Trains until all steps are done, or until some rank asks to stop; see TrainingLoop."""
        return TrainingLoop(self, logger, checkpointer, should_stop, at_boundary).run()


class Period:
    """A period of environment steps.

    Its times are its multiples, counted from step 0, so that a resumed run writes the same rows, at the same updates,
    as one that was never interrupted.

    Args:
        every: length of the period; None for one that never ends.
        steps: environment steps done so far.
    """

    def __init__(self, every: int | None, steps: int) -> None:
        self._every = every
        self._next = self._after(steps)

    def ended(self, steps: int) -> bool:
        """Returns whether a multiple was reached since the last call that returned True."""
        if self._next is None or steps < self._next:
            return False
        self._next = self._after(steps)
        return True

    def _after(self, steps: int) -> int | None:
        return None if self._every is None else (steps // self._every + 1) * self._every


class TrainingLoop:
    """Trains until all steps are done, or until some rank asks to stop.

    Args:
        task: the experiment or league.
        logger: receives rows of metrics, on rank 0.
        checkpointer: saves on rank 0; None to save nothing.
        should_stop: asked before every update; it is enough that one rank says yes.
        at_boundary: called on all ranks before the first update and after each, where the task's state is everything
            that decides the future.
    """

    def __init__(
        self,
        task: TrainingTask,
        logger: Logger | None = None,
        checkpointer: Checkpointer | AsyncCheckpointer | None = None,
        should_stop: Callable[[], bool] = lambda: False,
        at_boundary: Callable[[], object] = lambda: None,
    ) -> None:
        self._task = task
        self._logger = NullLogger() if logger is None or task.communicator.rank else logger
        self._checkpointer = checkpointer
        self._should_stop = should_stop
        self._at_boundary = at_boundary
        self._measured: Metrics = {}
        self._next_check = 0

    def run(self) -> Result:
        """Trains; collective."""
        task, schedule, counter = self._task, self._task.schedule, self._task.counter
        # Saving is collective, and it is rank 0 that knows whether to save.
        saving = torch.tensor([self._checkpointer is not None])
        task.communicator.broadcast(saving)
        task.start()
        saved = counter.env_steps if task.resumed else -1
        saved_at = counter.wall_seconds
        checkpoints = Period(schedule.checkpoint_every, counter.env_steps)
        evaluations = Period(schedule.evaluate_every, counter.env_steps)
        rows = Period(schedule.row_every or 1, counter.env_steps)
        usage = Usage(counter, task.communicator)
        self._check_replicas()
        self._at_boundary()
        # The last rollout is completed: experience that is half gathered could be neither learned from nor saved.
        while not task.stopped and (counter.env_steps < schedule.steps or not task.at_boundary):
            metrics = task.advance(self._should_stop)
            if metrics is None:
                continue
            evaluates = evaluations.ended(counter.env_steps)
            measured = task.measure_if_due()
            row_due = rows.ended(counter.env_steps) or counter.env_steps >= schedule.steps
            if evaluates or row_due or measured is not None:
                self._write_row(usage, metrics, measured, evaluates=evaluates)
            if counter.updates >= self._next_check:
                self._check_replicas()
            due = checkpoints.ended(counter.env_steps) or (saved < 0 and schedule.checkpoint_every is not None)
            # Clocks are compared between ranks at rows only, where the ranks meet in any case.
            if saving and not task.stopped and (due or (row_due and self._minutes_passed(saved_at))):
                self._check_replicas()
                task.save(self._checkpointer)
                saved, saved_at = counter.env_steps, counter.wall_seconds
            self._at_boundary()
        self._check_replicas()
        if saving and saved != counter.env_steps:
            task.save(self._checkpointer)
        evaluation = task.evaluate() if schedule.evaluation_episodes and not task.stopped else None
        if evaluation is not None and task.communicator.rank == 0:
            self._logger.write({**counter.row(), FINAL: counter.env_steps, **evaluation.summary()})
        return Result(
            counter=counter,
            learner_state=task.learner_state(),
            evaluation=evaluation,
            stopped=task.stopped,
            measured=self._measured,
        )

    def _check_replicas(self) -> None:
        """Ends the run where ranks have come apart, before that is saved or learned from any further."""
        task = self._task
        self._next_check = task.counter.updates + CHECK_UPDATES
        if task.communicator.size > 1:
            what = f"parameters or counters after update {task.counter.updates}"
            assert_replicas_equal(task.communicator, *task.replicas(), what=what)

    def _minutes_passed(self, since: float) -> bool:
        """Returns whether it is time for a checkpoint by the clock of the rank that is furthest; collective."""
        minutes = self._task.schedule.checkpoint_minutes
        if minutes is None:
            return False
        passed = torch.tensor(self._task.counter.wall_seconds - since, dtype=torch.float64)
        self._task.communicator.all_reduce(passed, "max")
        return float(passed) >= 60.0 * minutes

    def _write_row(self, usage: Usage, metrics: Metrics, measured: Metrics | None, *, evaluates: bool) -> None:
        statistics = self._task.reduce_statistics()
        row = {**usage.row(), **statistics, **metrics}
        if measured is not None:
            self._measured = measured
            row |= measured
        if evaluates:
            evaluation = self._task.evaluate(final=False)
            if self._task.communicator.rank == 0:
                row |= evaluation.summary()
        self._logger.write(row)
