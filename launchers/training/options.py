"""Options of commands that train, and the declaration of such a command."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic

from marl.core import Communicator
from marl.experiments.experiment import Experiment
from marl.experiments.training_loop import TrainingTask
from marl.launchers.reports.trackers import TrackerOptions
from marl.launchers.run.settings import ConfigT, Settings, make_experiment_config
from marl.launchers.training.start import JobOptions
from marl.networks.images import Convolutions, ImageConfig, describe_reading, resolve_convolutions
from marl.specs import EnvironmentSpec


@dataclass(frozen=True, kw_only=True)
class TrainOptions(Settings[ConfigT], JobOptions, TrackerOptions, Generic[ConfigT]):
    """Options of ``marl train``."""

    recipe: str | None = None
    """Settings tuned for the pair: a recipe's name, or none for plain defaults. The pair's own if not given."""
    keep_checkpoints: int = 3
    """Number of newest checkpoints that are kept."""
    checkpoint_replay: bool = False
    """Whether checkpoints hold replay, so that a resumed run goes on exactly; without it replay is filled anew."""
    elastic_deadline: float = 30.0
    """Seconds in which the ranks that are left must be ready to go on, with --elastic; else the job ends, for
    --max-restarts to start it again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageReading:
    """The choice of layers for images."""

    convolutions: Convolutions
    """As ``config.json`` keeps it."""
    line: str | None
    """Says which was taken and how to change it; None where there are no images."""


def image_reading(config: ImageConfig, spec: EnvironmentSpec) -> ImageReading:
    """Decides how an algorithm reads the images of an environment."""
    inputs = [group.observation for group in spec.groups] + ([] if spec.state is None else [spec.state])
    return ImageReading(
        convolutions=resolve_convolutions(config.convolutions, inputs),
        line=describe_reading(config.convolutions, inputs),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """The experiment or league that a command runs, and what the command declares about it."""

    task: TrainingTask
    elastic: Experiment | None = None
    """The same experiment, where it can continue with fewer ranks."""
    small_networks: bool
    """Whether networks are too small to gain from several threads."""
    reading: ImageReading
    """The reading of images, as it was decided once their sizes were known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command that trains: ``marl NAME ALGORITHM ENV [OPTIONS]``."""

    name: str
    example: str
    """An environment to train on."""
    options: Any
    """TrainOptions, or a subclass; generic in the algorithm's configuration."""
    build: Callable[[str, str, Any, Communicator, Path], Training]
    """From algorithm, environment, options, ranks and the run's directory to the experiment."""
    check: Callable[[str, str, Any], object] = make_experiment_config
    """Raises InputError where options make no sense, before anything is started."""
    more_config: Callable[[Any], dict[str, Any]] = lambda options: {}
    """Entries of ``config.json`` besides the settings."""
    more_recipes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Changes that recipes, by name, make to options other than Settings."""
    gpus: bool = True
    """Whether it computes on GPUs too."""
    elastic: bool = True
    """Whether what is built can continue with fewer ranks."""
    compiles: bool = True
    """Whether it can go through torch's compiler, which wants the same shapes at every step."""
    curve: str = "episode_return/mean"
    """The metric whose curve is drawn in the end."""
