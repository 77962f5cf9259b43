"""``marl train``: one experiment, from a command line to a run directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from marl.core import Communicator
from marl.experiments.experiment import Experiment
from marl.launchers.run.settings import make_experiment_config
from marl.launchers.training.command import run_command
from marl.launchers.training.options import Command, Options


def train(words: list[str]) -> int:
    """Trains an algorithm; see ``main.main`` for the exit codes."""
    return run_command(
        Command(name="train", example="mpe2.simple_spread_v3", options=Options, build=_experiment), words
    )


def _experiment(algorithm: str, env: str, options: Options[Any], communicator: Communicator, path: Path) -> Experiment:
    return Experiment(make_experiment_config(algorithm, env, options), communicator)
