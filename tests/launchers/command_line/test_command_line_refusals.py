"""A number that an option does not take is refused by the option's name, wherever it is checked."""

import math
from collections.abc import Callable
from typing import Any

import pytest
from commands import all_commands

from marl.distributed.communicators import SerialCommunicator
from marl.errors import InputError
from marl.experiments.experiment import Experiment
from marl.launchers.command_line.kinds import Count, Kind, Maybe, Number
from marl.launchers.command_line.lists_and_maps import Several
from marl.launchers.command_line.options import find_options
from marl.launchers.command_line.reading import build_options
from marl.launchers.run.settings import make_experiment_config
from marl.launchers.training.league import _config as make_league_config

TRAINING = {name: both for name, both in all_commands(each="configuration").items() if " " in name}
FEW = {("num_envs",): 2, ("steps",): 10_000, ("evaluation_episodes",): 0}


def wrong_values(kind: Kind) -> tuple[object, ...]:
    """Values that few options take, or none."""
    if isinstance(kind, Maybe):
        return wrong_values(kind.kind)
    if isinstance(kind, Several) and isinstance(kind.item, Count):
        return ((), (0, 4), (-1,))
    return (-1, 0) if isinstance(kind, Count) else (-1.0, 0.0, 1.5, math.inf) if isinstance(kind, Number) else ()


def refusals(command: str, check: Callable[[Any], object], **others: Any) -> list[tuple[str, str]]:
    """The options whose wrong values are refused, with the messages."""
    kind, default = TRAINING[command]
    found = []
    for option in find_options(kind, default):
        for value in wrong_values(option.kind):
            values = {**FEW, **{(name,): other for name, other in others.items()}, option.path: value}
            if command.split()[1] in ("matd3", "qplex", "isac"):
                values = {("algorithm", "replay", "capacity"): 6_000, **values}
            if option.path[-1] == "noise_theta":
                values["algorithm", "noise"] = "ornstein-uhlenbeck"
            try:
                check(build_options(kind, values, default))
            except InputError as error:
                found.append((option.name, str(error)))
    assert all("\n" not in message for _, message in found)
    return found


@pytest.mark.parametrize("command", [name for name in TRAINING if name.startswith("train")])
def test_training_refuses_a_number_by_its_options_name(command):
    algorithm = command.split()[1]
    continuous = {"env_kwargs": '{"continuous_actions": true}'} if algorithm in ("matd3", "isac") else {}

    def check(options: Any) -> None:
        options.check()
        config = make_experiment_config(algorithm, "mpe2.simple_spread_v3", options)
        Experiment(config, SerialCommunicator()).close()

    found = refusals(command, check, **continuous)
    assert len(found) > 30
    assert [(name, message) for name, message in found if name not in message] == []


def test_leagues_refuse_a_number_by_its_options_name():
    def check(options: Any) -> None:
        options.check()
        make_league_config("ippo", "classic/tictactoe-v3", options)

    found = refusals("league ippo", check)
    assert {"--nfsp.anticipatory", "--nfsp.reservoir", "--nfsp.hidden-sizes", "--window"} <= {name for name, _ in found}
    assert [(name, message) for name, message in found if name not in message] == []
