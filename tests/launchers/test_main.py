import os
import subprocess
import sys

import pytest

from marl import __version__
from marl.launchers.main import COMMANDS

HEAVY = ("torch", "numpy", "pettingzoo", "mpi4py", "matplotlib", "wandb", "tyro", "rich")


def test_help_names_every_command(marl):
    for argv in ((), ("--help",), ("-h",)):
        done = marl(*argv)
        assert done.code == 0
        assert all(command in done.stdout for command in COMMANDS)


def test_version_is_the_packages(marl):
    assert marl("--version").stdout.strip() == __version__


@pytest.mark.parametrize("argv", [["--help"], ["trian"]])
def test_help_and_typing_errors_import_nothing_heavy(argv):
    program = (
        "import sys; from marl.launchers.main import main; main(sys.argv[1:]); "
        f"print(sorted(set({HEAVY}) & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *argv], capture_output=True, text=True, check=True, timeout=60, env=os.environ
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_unknown_command_is_met_by_the_nearest(refused):
    assert refused("trian") == "there is no command 'trian'; did you mean 'train'?"
    assert refused("xyzzy").endswith("there are " + ", ".join(sorted(COMMANDS)))


@pytest.mark.parametrize("command", [command for command in COMMANDS if command not in ("train", "bench")])
def test_every_command_explains_itself(marl, command):
    done = marl(command, "--help")
    assert done.code == 0
    assert f"marl {command}" in done.stdout


def test_train_and_bench_explain_themselves_before_and_after_their_names(marl):
    assert "ALGORITHM is one of mappo, ippo" in marl("train", "--help").stdout
    assert "--num-envs" in marl("train", "ippo", "mpe2.simple_spread_v3", "--help").stdout
    assert "allreduce" in marl("bench").stdout
    assert "--ranks" in marl("bench", "rollout", "--help").stdout


@pytest.mark.parametrize("command", ["train", "league"])
def test_what_only_starts_ranks_loads_no_torch(command):
    program = (
        "import sys, marl.launchers.training.start as start\n"
        "start.Supervisor.supervise = lambda self: 0\n"
        f"assert start.{command}(['ippo', 'mpe2.simple_spread_v3', '--ranks', '2', '--steps', '100']) == 0\n"
        f"print(sorted((set({HEAVY}) - {{'tyro'}}) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines() == ["[]"]
