"""All commands with their options."""

from typing import Any

from marl.launchers.bench.command import BenchOptions
from marl.launchers.command_line.options import Option, find_options
from marl.launchers.commands.doctor import DoctorOptions
from marl.launchers.commands.evaluate import EvaluateOptions
from marl.launchers.commands.exploitability import ExploitabilityOptions
from marl.launchers.commands.play import PlayOptions
from marl.launchers.commands.plot import PlotOptions
from marl.launchers.commands.track import TrackOptions
from marl.launchers.run.catalog import ALGORITHMS
from marl.launchers.tournament.options import TournamentOptions
from marl.launchers.training.league import LeagueOptions
from marl.launchers.training.options import TrainOptions
from marl.launchers.training.start import LaunchOptions

PLAIN: dict[str, Any] = {
    "evaluate": EvaluateOptions,
    "play": PlayOptions,
    "plot": PlotOptions,
    "track": TrackOptions,
    "doctor": DoctorOptions,
    "bench": BenchOptions,
    "tournament": TournamentOptions,
    "exploitability": ExploitabilityOptions,
    "ranks": LaunchOptions,
}
"""Options of commands that do not train, and of the process that starts ranks."""


def all_commands(*, each: str = "algorithm") -> dict[str, tuple[Any, Any]]:
    """The options' dataclass of each command, and an instance with its defaults.

    Commands that train are there once for each algorithm, or only for each of their configurations' classes.
    """
    configs = {name: variant.default_config() for name, variant in ALGORITHMS.items()}
    if each == "configuration":
        configs = {name: configs[name] for name in {type(config): name for name, config in configs.items()}.values()}
    training = {
        f"{command} {algorithm}": (kind, kind(algorithm=config))
        for command, kind in (("train", TrainOptions), ("league", LeagueOptions))
        for algorithm, config in configs.items()
    }
    return {name: (kind, None) for name, kind in PLAIN.items()} | training


def all_options() -> dict[str, tuple[Option, ...]]:
    """The options of each command, with each algorithm."""
    return {name: find_options(kind, default) for name, (kind, default) in all_commands().items()}
