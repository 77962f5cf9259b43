"""Elastic training: when a rank of a job that was started with ULFM dies, those that are left continue the run.

Every rank keeps the newest snapshots in memory: the state that a checkpoint holds, with the environments of ALL ranks.
So the ranks that are left can continue however many died at once, and need nothing from a disk: they agree on the
newest snapshot that all of them have and build the experiment anew, with the dead ranks' environments shared out among
them. Learners know nothing of this.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import torch
from torch import Tensor

from marl.checkpoints.checkpoint import Checkpoint
from marl.distributed.communicators import DelegatingCommunicator
from marl.experiments.experiment import Experiment
from marl.launchers.mpi.elastic_communicator import ElasticCommunicator
from marl.states import flatten_state

T = TypeVar("T")
SHARE: Final = 0.02
"""The share of the time that snapshots may take; where one an update takes more, they are taken more seldom."""


class _GatherEverywhere(DelegatingCommunicator):
    """The same ranks, with rows gathered on all of them."""

    def __init__(self, communicator: ElasticCommunicator) -> None:
        super().__init__(communicator)
        self._elastic = communicator

    def gather_rows(self, tensor: Tensor) -> Tensor:
        return self._elastic.gather_rows_everywhere(tensor)


class Snapshots:
    """The newest two snapshots of an experiment, whole on every rank.

    Two, because a rank may die while the newest is being taken: then some ranks have it and others do not, but all
    have the one before, since no rank begins a snapshot before all have ended the last.

    Args:
        communicator: the ranks; when some have died, call ``agree``.
        share: of the time between snapshots that one may take.
    """

    def __init__(self, communicator: ElasticCommunicator, share: float = SHARE) -> None:
        self._communicator = communicator
        self._share = share
        self._kept: dict[int, Checkpoint] = {}
        self._number = 0
        self._due = self._last = 0
        self._ended = time.monotonic()
        self._cost = math.inf

    def update(self, experiment: Experiment) -> None:
        """Takes a snapshot, if one is due; to be called on all ranks, at the same updates. Collective."""
        updates = experiment.counter.updates
        if updates < self._due:
            return
        began = time.monotonic()
        state = flatten_state(experiment.gather_state(_GatherEverywhere(self._communicator)))
        snapshot = Checkpoint(
            step=experiment.counter.env_steps,
            tensors={name: tensor.detach().clone() for name, tensor in state.items()},
            metadata={"counter": experiment.counter.state_dict()},
            path=Path(f"snapshot-{updates}"),
        )
        now = time.monotonic()
        # The rank that came last waited least, so the shortest time is what a snapshot costs.
        seconds = torch.tensor([now - began, now - self._ended], dtype=torch.float64)
        self._communicator.all_reduce(seconds, "min")
        cost, elapsed = seconds.tolist()
        # The first ones cost more than those to come; before the very first there was no update.
        self._cost = min(cost, self._cost)
        an_update = (elapsed - cost) / max(1, updates - self._last) if self._number else math.inf
        self._due = updates + max(1, math.ceil(self._cost / max(self._share * an_update, 1e-9)))
        self._last, self._ended = updates, now
        self._number += 1
        self._kept = {number: kept for number, kept in self._kept.items() if number == self._number - 1}
        self._kept[self._number] = snapshot

    def agree(self) -> Checkpoint | None:
        """The newest snapshot that all remaining ranks have, from now on the newest of all; None if there is none."""
        newest = torch.tensor([self._number])
        self._communicator.all_reduce(newest, "min")
        self._number = int(newest)
        self._kept = {number: kept for number, kept in self._kept.items() if number <= self._number}
        snapshot = self._kept.get(self._number)
        # Environments are shared out anew, but the snapshot holds all of them: it stays valid.
        self._due = self._last = 0 if snapshot is None else int(snapshot.metadata["counter"]["updates"])
        self._ended = time.monotonic()
        return snapshot


class ElasticTraining:
    """Trains, and continues with the ranks that are left when some die.

    Args:
        communicator: the ranks.
        deadline: seconds after a loss in which the ranks that are left must be ready to continue; else the job is
            ended, for its supervisor to start it again.
        warn: takes the lines about losses; on the first rank, or where the job ends.
        share: see Snapshots.
    """

    def __init__(
        self, communicator: ElasticCommunicator, deadline: float, warn: Callable[[str], object], share: float = SHARE
    ) -> None:
        self._communicator = communicator
        self._deadline = deadline
        self._warn = warn
        self._snapshots = Snapshots(communicator, share)
        self._timer: threading.Timer | None = None
        self._noticed = 0.0
        self._lost = 0

    def run(self, attempt: Callable[[Checkpoint | None], T]) -> T:
        """Trains until training is done on all ranks that are left.

        Args:
            attempt: builds everything, continues from the snapshot that it is given (None at first) and trains; it
                calls ``at_boundary`` before the first update and after each.

        Returns:
            The result of the last attempt.
        """

        def once() -> T:
            snapshot = self._snapshots.agree() if self._timer is not None else None
            if snapshot is None and self._timer is not None:
                self._fall_back("no rank had a snapshot yet")
            return attempt(snapshot)

        return self._communicator.retry_with_survivors(once, on_loss=self._notice, on_shrink=self._count_loss)

    def at_boundary(self, experiment: Experiment) -> None:
        """Takes a snapshot if one is due, which shows that all ranks that are left are ready to continue."""
        self._snapshots.update(experiment)
        if self._timer is None:
            return
        self._timer.cancel()
        self._timer = None
        if self._communicator.rank == 0:
            ranks = "a rank" if self._lost == 1 else f"{self._lost} ranks"
            left = "1 rank goes" if self._communicator.size == 1 else f"{self._communicator.size} ranks go"
            seconds = time.monotonic() - self._noticed
            self._warn(f"{ranks} died; {left} on from update {experiment.counter.updates}, after {seconds:.1f} s")
        self._lost = 0

    def _notice(self) -> None:
        if self._timer is None:
            self._noticed = time.monotonic()
            why = f"the ranks that are left were not ready to go on within {self._deadline:g} s"
            self._timer = threading.Timer(self._deadline, self._fall_back, (why,))
            self._timer.daemon = True
            self._timer.start()

    def _count_loss(self, lost: int) -> None:
        self._lost += lost

    def _fall_back(self, why: str) -> None:
        """Ends the job; may be called from any thread."""
        self._warn(f"a rank died, and {why}: the job ends")
        self._communicator.abort(1)
