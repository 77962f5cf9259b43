"""``marl train``: one experiment, from a command line to a run directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from marl.core import Communicator
from marl.experiments.experiment import Experiment
from marl.launchers.run.settings import make_experiment_config
from marl.launchers.training.command import run_command
from marl.launchers.training.options import Command, Training, TrainOptions, image_reading
from marl.networks.images import ImageConfig, is_convolved

_SMALL: Final = 1_000_000
"""Parameters below which a second thread gains little."""


def train(argv: list[str]) -> int:
    """Trains an algorithm; see ``main.main`` for the exit codes."""
    return run_command(Command(name="train", example="mpe2.simple_spread_v3", options=TrainOptions, build=_build), argv)


def _build(algorithm: str, env: str, options: TrainOptions[Any], communicator: Communicator, path: Path) -> Training:
    experiment = Experiment(make_experiment_config(algorithm, env, options), communicator)
    return Training(
        task=experiment,
        elastic=experiment,
        small_networks=_has_small_networks(experiment, options.algorithm),
        reading=image_reading(options.algorithm, experiment.spec),
    )


def _has_small_networks(experiment: Experiment, config: ImageConfig) -> bool:
    if any(is_convolved(group.observation, config.convolutions) for group in experiment.spec.groups):
        return False
    return experiment.num_parameters < _SMALL
