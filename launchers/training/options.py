"""What commands that train are told, and what they put together and run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, Protocol

from marl.checkpoints.checkpoint import Checkpoint
from marl.checkpoints.checkpointer import AsyncCheckpointer, Checkpointer
from marl.core import Communicator
from marl.counters import Counter
from marl.experiments.config import Result
from marl.launchers.run.settings import ConfigT, Settings, make_experiment_config
from marl.launchers.training.start import JobOptions
from marl.loggers.base import Logger


@dataclass(frozen=True, kw_only=True)
class Options(Settings[ConfigT], JobOptions, Generic[ConfigT]):
    """What ``marl train`` can be told."""

    recipe: str | None = None
    """Settings tuned for the pair: a recipe's name, or none for plain defaults. The pair's own if not given."""
    keep_checkpoints: int = 3
    """How many of the newest checkpoints stay."""
    checkpoint_replay: bool = False
    """Whether checkpoints hold replay, so that a resumed run goes on exactly; without it replay is filled anew."""
    wandb: Literal["disabled", "offline", "online"] = "disabled"
    """Whether to log to W&B."""
    wandb_project: str = "marl"
    """The W&B project."""
    tensorboard: bool = False
    """Whether to write TensorBoard files into the run directory."""
    elastic_deadline: float = 30.0
    """Seconds in which they must be ready to go on; else the job ends, for --max-restarts to start it again."""


class Trainable(Protocol):
    """What a command puts together and runs: an Experiment, or something like it."""

    counter: Counter

    def load(self, checkpoint: Checkpoint) -> None:
        """Goes on where a checkpoint stopped."""

    def run(
        self,
        logger: Logger | None = None,
        checkpointer: Checkpointer | AsyncCheckpointer | None = None,
        should_stop: Callable[[], bool] = ...,
    ) -> Result:
        """Trains until all steps are done, or until some rank wants to stop."""

    def close(self) -> None:
        """Frees what it holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command that trains: ``marl NAME ALGORITHM ENV [OPTIONS]``."""

    name: str
    example: str
    """An environment to train on."""
    options: Any
    """Options, or a kind of them with more fields, generic in the algorithm's configuration."""
    build: Callable[[str, str, Any, Communicator, Path], Trainable]
    """From algorithm, environment, options, ranks and the run's directory to what is run."""
    check: Callable[[str, str, Any], object] = make_experiment_config
    """Refuses options that make no sense, before anything is started."""
    more_config: Callable[[Any], dict[str, Any]] = lambda options: {}
    """What ``config.json`` holds besides the settings."""
    devices: bool = True
    """Whether it computes on GPUs too."""
    survives: bool = True
    """Whether what is built can go on from a snapshot of its ranks' memory."""
    compiles: bool = True
    """Whether it can go through torch's compiler, which wants the same shapes at every step."""
    curve: str = "episode_return/mean"
    """The figure whose curve is drawn in the end."""
