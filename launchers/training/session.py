"""A training run on all its ranks: what they agree on, what each of them does, and how it continues after a loss."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import platform
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

import torch

from marl.checkpoints.checkpoint import Checkpoint, load_checkpoint
from marl.core import Communicator
from marl.distributed.broadcast import from_root
from marl.distributed.replica_checks import refuse_other_settings
from marl.errors import InputError
from marl.experiments.config import Result
from marl.experiments.saved_state import load_on_ranks
from marl.experiments.training_loop import TrainingTask
from marl.launchers.console import warn
from marl.launchers.environment_variables import use_fair_threads, world_size_from_environment
from marl.launchers.mpi.devices import communicator_for, find_device, use_device
from marl.launchers.mpi.elastic_communicator import ElasticCommunicator, check_fault_tolerance
from marl.launchers.run.run_directory import new_run_path
from marl.launchers.run.settings import Settings, to_json
from marl.launchers.stopping import STOPPED, StopRequest
from marl.launchers.supervision.heartbeat import Heartbeat
from marl.launchers.supervision.supervisor import rank_folder
from marl.launchers.supervision.watchdog import watched_rank
from marl.launchers.supervision.watched_communicator import WatchedCommunicator
from marl.launchers.training.elastic import ElasticTraining
from marl.launchers.training.options import Command, Training, TrainOptions
from marl.launchers.training.recorder import RunRecorder

_REFILLS: Final = "replay was not saved (--checkpoint-replay) and starts empty: learning waits for new items"


def run_training(
    command: Command,
    algorithm: str,
    env: str,
    options: TrainOptions[Any],
    recipe: str | None,
    communicator: Communicator,
) -> int:
    """Trains, as one of the ranks.

    Args:
        command: the command that was called.
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
    in_job = world_size_from_environment() is not None
    _check_job(options, communicator, in_job=in_job)
    use_fair_threads()
    device = find_device(options.device)
    use_device(device)
    config = to_json(algorithm, env, _settings(options), recipe) | command.more_config(options)
    others = {f"--{field.name.replace('_', '-')}": repr(getattr(options, field.name)) for field in fields(options)}
    refuse_other_settings(communicator, {"the environment": env, "the algorithm": algorithm, **others, **_versions()})
    title = f"{algorithm} on {env}, recipe {recipe}" if recipe else f"{algorithm} on {env}, no recipe (plain defaults)"
    with contextlib.ExitStack() as held:
        path = options.out
        if path is None:
            path = Path(
                from_root(communicator, lambda: str(held.enter_context(new_run_path(algorithm, env, options.seed))))
            )
        recorder = RunRecorder(path, options, config, title, held, watched=in_job or options.watchdog > 0)
        finished = from_root(communicator, recorder.claim)
        if finished is not None:
            if communicator.rank == 0:
                print(finished)
            return 0
        session = TrainingSession(
            build=lambda ranks: command.build(algorithm, env, replace(options, device=str(device)), ranks, path),
            options=options,
            device=device,
            path=path,
            recorder=recorder,
            communicator=communicator,
            in_job=in_job,
        )
        code = 1
        try:
            result = session.train_elastically() if options.elastic else session.train()
            code = STOPPED if result.stopped else 0
        except BaseException as error:
            code = 2 if isinstance(error, InputError) else 1
            recorder.fail(error, refused=code == 2)
            raise
        finally:
            recorder.close(code)
        recorder.report(result, communicator, command.curve)
        return code


def _check_job(options: TrainOptions[Any], communicator: Communicator, *, in_job: bool) -> None:
    if options.ranks not in (None, communicator.size):
        raise InputError(f"--ranks {options.ranks} under an mpirun that started {communicator.size}; leave it out")
    if options.max_restarts and in_job:
        raise InputError("--max-restarts cannot restart the mpirun that it runs under; use it with --ranks")
    if options.elastic:
        check_fault_tolerance()


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSession:
    """A rank's part in training: the experiment is built once, or again by the ranks that are left when one dies."""

    build: Callable[[Communicator], Training]
    options: TrainOptions[Any]
    device: torch.device
    path: Path
    recorder: RunRecorder
    communicator: Communicator
    in_job: bool

    def train_elastically(self) -> Result:
        """Trains, and continues with the ranks that are left when some die."""
        assert isinstance(self.communicator, ElasticCommunicator)
        elastic = ElasticTraining(self.communicator, self.options.elastic_deadline, warn)
        with StopRequest() as stop:
            return elastic.run(lambda snapshot: self.train(snapshot, elastic, stop))

    def train(
        self,
        snapshot: Checkpoint | None = None,
        elastic: ElasticTraining | None = None,
        stop: StopRequest | None = None,
    ) -> Result:
        """Builds the experiment and trains.

        Args:
            snapshot: from where to continue; None for where the options say.
            elastic: called at every update, where the run continues when ranks die.
            stop: the request to stop, where signals are handled already; else they are while training.
        """
        communicator, options, recorder = self.communicator, self.options, self.recorder
        heartbeat = Heartbeat(communicator.rank)
        ranks = communicator_for(communicator, self.device, elastic=options.elastic)
        training = self.build(WatchedCommunicator(ranks, heartbeat))
        task = training.task
        heartbeat.counter = task.counter

        def tell(what: str, done: int, total: int) -> None:
            heartbeat.beat()
            recorder.tell(what, done, total)

        task.progress = tell
        use_fair_threads(small=training.small_networks)
        with contextlib.closing(task):
            if snapshot is None:
                self._resume(task)
            else:
                task.load(snapshot)
                if communicator.rank == 0 and task.refills:
                    warn(_REFILLS)
            recorder.open(communicator, task.counter, training.reading, again=snapshot is not None)
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
                run = task.run
                if elastic is not None:
                    assert training.elastic is not None, "options were checked"
                    run = functools.partial(run, at_boundary=functools.partial(elastic.at_boundary, training.elastic))
                result = run(recorder.logger, recorder.checkpointer, request.asked)
                if recorder.checkpointer is not None:
                    recorder.checkpointer.close()
        return result

    def _resume(self, task: TrainingTask) -> None:
        """Loads the newest checkpoint, where the run is resumed and has one."""
        if not self.options.resume:
            return
        root = self.communicator.rank == 0
        if from_root(self.communicator, self.recorder.begins_anew):
            if root:
                print(f"{self.path} has no checkpoint yet; it begins anew")
            return
        checkpoints = self.path / "checkpoints"
        task.load(load_on_ranks(self.communicator, lambda: load_checkpoint(checkpoints, warn=warn)))
        if root and task.refills:
            print(_REFILLS)


def _versions() -> dict[str, str]:
    """Versions of what computes, by name."""
    versions = {name: importlib.metadata.version(name) for name in ("marl", "numpy", "torch")}
    return {"Python": platform.python_version(), **versions}


def _settings(options: TrainOptions[Any]) -> Settings[Any]:
    """The part of the options that decides the result."""
    return Settings(**{field.name: getattr(options, field.name) for field in fields(Settings)})
