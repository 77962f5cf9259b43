"""A rank dies, the run goes on: what the survivors of a job that was started with ULFM need to do so.

Every rank keeps the newest snapshots in memory: the state that a checkpoint holds, with the environment copies of ALL
ranks. So whoever survives can go on by itself, however many died at once, and needs nothing from a disk: the survivors
agree on the newest snapshot that all of them have and put the experiment together anew, with the dead ranks' copies
shared out among them. What the learners know of all this is nothing.
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
from marl.checkpoints.state import flatten_state
from marl.distributed.communicators import DelegatingCommunicator
from marl.experiments.experiment import Experiment
from marl.launchers.mpi.elastic_communicator import ElasticCommunicator

T = TypeVar("T")
SHARE: Final = 0.02
"""Of the time, what snapshots may take; where one an update takes more, they are taken more seldom."""


class _Everywhere(DelegatingCommunicator):
    """The same ranks, with rows gathered on all of them."""

    def __init__(self, communicator: ElasticCommunicator) -> None:
        super().__init__(communicator)
        self._elastic = communicator

    def gather_rows(self, tensor: Tensor) -> Tensor:
        """All ranks' rows on all ranks."""
        return self._elastic.gather_rows_everywhere(tensor)


class Snapshots:
    """The newest two snapshots of an experiment, whole on every rank.

    Two, because a rank may die while the newest is being taken: then some ranks have it and others do not, but all
    have the one before, since nobody begins a snapshot before all ranks have ended the last.

    Args:
        communicator: the ranks; when some have died, call ``agree``.
        share: of the time between snapshots, what one may take.
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
        state = flatten_state(experiment.gather_state(_Everywhere(self._communicator)))
        snapshot = Checkpoint(
            step=experiment.counter.env_steps,
            tensors={name: tensor.detach().clone() for name, tensor in state.items()},
            metadata={"counter": experiment.counter.state_dict()},
            path=Path(f"snapshot-{updates}"),
        )
        now = time.monotonic()
        # The rank that came last waited least, so the shortest time is what a snapshot costs.
        figures = torch.tensor([now - began, now - self._ended], dtype=torch.float64)
        self._communicator.all_reduce(figures, "min")
        cost, elapsed = figures.tolist()
        # The first ones are dear, and no measure for those to come; before the very first there was no update.
        self._cost = min(cost, self._cost)
        an_update = (elapsed - cost) / max(1, updates - self._last) if self._number else math.inf
        self._due = updates + max(1, math.ceil(self._cost / max(self._share * an_update, 1e-9)))
        self._last, self._ended = updates, now
        self._number += 1
        self._kept = {number: kept for number, kept in self._kept.items() if number == self._number - 1}
        self._kept[self._number] = snapshot

    def agree(self) -> Checkpoint | None:
        """The newest snapshot that all survivors have, and from now on the newest of all; None where there is none."""
        newest = torch.tensor([self._number])
        self._communicator.all_reduce(newest, "min")
        self._number = int(newest)
        self._kept = {number: kept for number, kept in self._kept.items() if number <= self._number}
        snapshot = self._kept.get(self._number)
        # The partition of copies is another now, but the snapshot holds all of them: it stays good.
        self._due = self._last = 0 if snapshot is None else int(snapshot.metadata["counter"]["updates"])
        self._ended = time.monotonic()
        return snapshot


class ElasticTraining:
    """Trains, and goes on with those ranks that are left when some die.

    Args:
        communicator: the ranks.
        deadline: seconds after a loss in which the survivors must be ready to go on; else the job is ended, for its
            supervisor to start it again.
        say: told in one line, on the first rank, that they went on.
        share: see Snapshots.
    """

    def __init__(
        self, communicator: ElasticCommunicator, deadline: float, say: Callable[[str], object], share: float = SHARE
    ) -> None:
        self._communicator = communicator
        self._deadline = deadline
        self._say = say
        self._snapshots = Snapshots(communicator, share)
        self._timer: threading.Timer | None = None
        self._noticed = 0.0
        self._lost = 0

    def together(self, attempt: Callable[[Checkpoint | None], T]) -> T:
        """Trains until that is done on all ranks that are left.

        Args:
            attempt: puts everything together, goes on from the snapshot that it is given (None at first) and trains;
                it calls ``at_boundary`` before the first update and after each.

        Returns:
            What the last attempt returned.
        """

        def once() -> T:
            snapshot = self._snapshots.agree() if self._timer is not None else None
            if snapshot is None and self._timer is not None:
                self._fall_back("no rank had a snapshot yet")
            return attempt(snapshot)

        return self._communicator.retry_with_survivors(once, on_loss=self._notice, on_shrink=self._survive)

    def at_boundary(self, experiment: Experiment) -> None:
        """Takes a snapshot if one is due, and knows by it that all survivors are ready to go on."""
        self._snapshots.update(experiment)
        if self._timer is None:
            return
        self._timer.cancel()
        self._timer = None
        if self._communicator.rank == 0:
            ranks = "a rank" if self._lost == 1 else f"{self._lost} ranks"
            left = "1 rank goes" if self._communicator.size == 1 else f"{self._communicator.size} ranks go"
            seconds = time.monotonic() - self._noticed
            self._say(f"{ranks} died; {left} on from update {experiment.counter.updates}, after {seconds:.1f} s")
        self._lost = 0

    def _notice(self) -> None:
        if self._timer is None:
            self._noticed = time.monotonic()
            why = f"the ranks that are left were not ready to go on within {self._deadline:g} s"
            self._timer = threading.Timer(self._deadline, self._fall_back, (why,))
            self._timer.daemon = True
            self._timer.start()

    def _survive(self, lost: int) -> None:
        self._lost += lost

    def _fall_back(self, why: str) -> None:
        """Ends the job; from whichever thread."""
        self._say(f"a rank died, and {why}: the job ends")
        self._communicator.abort(1)
