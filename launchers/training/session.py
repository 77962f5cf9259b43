"""A training run on all its ranks: what they agree on, what each of them does, and how it goes on after a loss."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from marl.checkpoints.checkpoint import Checkpoint, list_checkpoints, load_checkpoint
from marl.core import Communicator
from marl.errors import InputError
from marl.experiments.config import Result
from marl.experiments.experiment import Experiment
from marl.launchers.console import warn
from marl.launchers.environment import use_fair_threads, world_size_from_environment
from marl.launchers.mpi.broadcast import from_root
from marl.launchers.mpi.devices import communicator_for, find_device, use_device
from marl.launchers.mpi.elastic_communicator import ElasticCommunicator, check_fault_tolerance
from marl.launchers.run.run_directory import default_run_path
from marl.launchers.run.settings import Settings, to_json
from marl.launchers.stopping import STOPPED, StopRequest
from marl.launchers.supervision.heartbeat import Heartbeat
from marl.launchers.supervision.supervisor import rank_folder
from marl.launchers.supervision.watchdog import watched_rank
from marl.launchers.supervision.watched_communicator import WatchedCommunicator
from marl.launchers.training.elastic import ElasticTraining
from marl.launchers.training.options import Command, Options, Trainable
from marl.launchers.training.recorder import RunRecorder, check_directory
from marl.networks.torso import is_image
from marl.replay import ReplayDataset


def run_training(
    command: Command,
    algorithm: str,
    env: str,
    options: Options[Any],
    recipe: str | None,
    communicator: Communicator,
) -> int:
    """Trains, as one of the ranks.

    Args:
        command: what is put together.
        algorithm: its name.
        env: the environment's name.
        options: as they were read.
        recipe: the name of the settings that they began from, if any.
        communicator: the ranks.

    Returns:
        0 done, 75 stopped on request.

    Raises:
        InputError: the options do not fit the job or the run directory, or training came upon wrong input.
    """
    if options.ranks not in (None, communicator.size):
        raise InputError(f"--ranks {options.ranks} under an mpirun that started {communicator.size}; leave it out")
    in_job = world_size_from_environment() is not None
    if options.max_restarts and in_job:
        raise InputError("--max-restarts cannot restart the mpirun that it runs under; use it with --ranks")
    if options.elastic:
        check_fault_tolerance()
    use_fair_threads()
    device = find_device(options.device)
    use_device(device)
    config = to_json(algorithm, env, _settings(options), recipe) | command.more_config(options)
    finished = from_root(communicator, lambda: check_directory(options, config))
    if finished is not None:
        if communicator.rank == 0:
            print(finished)
        return 0
    path = options.out
    if path is None:
        # Its name holds the time.
        path = Path(from_root(communicator, lambda: str(default_run_path(algorithm, env, options.seed))))
    title = f"{algorithm} on {env}, recipe {recipe}" if recipe else f"{algorithm} on {env}, no recipe (plain defaults)"
    with contextlib.ExitStack() as held:
        books = RunRecorder(path, options, config, title, held, watched=in_job or options.watchdog > 0)
        work = TrainingSession(
            build=lambda watched: command.build(algorithm, env, replace(options, device=str(device)), watched, path),
            options=options,
            device=device,
            path=path,
            books=books,
            communicator=communicator,
            in_job=in_job,
        )
        code = 1
        try:
            result = work.survive() if options.elastic else work.train()
            code = STOPPED if result.stopped else 0
        except BaseException as error:
            code = 2 if isinstance(error, InputError) else 1
            books.fail(error, refused=code == 2)
            raise
        finally:
            books.close(code)
        books.report(result, communicator, command.curve)
        return code


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSession:
    """A rank's part in training: parts are put together once, or again by those that are left when a rank dies."""

    build: Callable[[Communicator], Trainable]
    options: Options[Any]
    device: torch.device
    path: Path
    books: RunRecorder
    communicator: Communicator
    in_job: bool

    def survive(self) -> Result:
        """Trains, and goes on when ranks die."""
        assert isinstance(self.communicator, ElasticCommunicator)
        survival = ElasticTraining(self.communicator, self.options.elastic_deadline, warn)
        with StopRequest() as stop:
            return survival.together(lambda snapshot: self.train(snapshot, survival, stop))

    def train(
        self,
        snapshot: Checkpoint | None = None,
        survival: ElasticTraining | None = None,
        stop: StopRequest | None = None,
    ) -> Result:
        """Puts the experiment together and trains.

        Args:
            snapshot: where to go on; None for where the options say.
            survival: told of every update, where the run is to survive.
            stop: whether somebody asks to stop, where it is heard already; else it is while training.
        """
        communicator, options, books = self.communicator, self.options, self.books
        heartbeat = Heartbeat(communicator.rank)
        ranks = communicator_for(communicator, self.device, elastic=options.elastic)
        experiment = self.build(WatchedCommunicator(ranks, heartbeat))
        heartbeat.counter = experiment.counter
        use_fair_threads(small=_has_small_networks(experiment))
        with contextlib.closing(experiment):
            if snapshot is None:
                self._resume(experiment)
            else:
                experiment.load(snapshot)
                if communicator.rank == 0 and _refills(experiment):
                    warn("replay was not saved (--checkpoint-replay) and starts empty: learning waits for new items")
            books.open(communicator, experiment.counter, again=snapshot is not None)
            with (
                StopRequest() if stop is None else contextlib.nullcontext(stop) as request,
                watched_rank(
                    rank_folder(self.path),
                    heartbeat,
                    communicator.rank,
                    timeout=options.watchdog,
                    in_job=self.in_job,
                ),
            ):
                if survival is None:
                    result = experiment.run(books.logger, books.checkpointer, request.asked)
                else:
                    assert isinstance(experiment, Experiment)
                    at_boundary = functools.partial(survival.at_boundary, experiment)
                    result = experiment.run(books.logger, books.checkpointer, request.asked, at_boundary)
                if books.checkpointer is not None:
                    books.checkpointer.close()
        return result

    def _resume(self, experiment: Trainable) -> None:
        root = self.communicator.rank == 0
        checkpoints = self.path / "checkpoints"
        # A run that was killed before its first checkpoint begins anew; one that lost its checkpoints does not.
        begins_anew = not list_checkpoints(checkpoints) and not (self.path / "summary.json").exists()
        if self.options.resume and not begins_anew:
            experiment.load(load_checkpoint(checkpoints, warn=warn if root else _ignore))
            if root and _refills(experiment):
                print("replay was not saved (--checkpoint-replay) and starts empty: learning waits for new items")
        elif self.options.resume and root:
            print(f"{self.path} has no checkpoint yet; it begins anew")


def _has_small_networks(experiment: Trainable) -> bool:
    """Whether networks are too small to gain from threads: those of leagues, and below a million parameters."""
    if not isinstance(experiment, Experiment):
        return True
    images = any(is_image(group.observation) for group in experiment.spec.groups)
    return not images and sum(tensor.numel() for tensor in experiment.learner.get_variables().values()) < 1_000_000


def _refills(experiment: Trainable) -> bool:
    dataset = getattr(experiment, "dataset", None)
    return isinstance(dataset, ReplayDataset) and dataset.refills


def _settings(options: Options[Any]) -> Settings[Any]:
    return Settings(**{name: getattr(options, name) for name in Settings.__dataclass_fields__})


def _ignore(line: str) -> None:
    """Other ranks have nothing to add."""
