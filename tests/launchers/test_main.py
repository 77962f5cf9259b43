import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import POLITE, SHORT

from marl import __version__
from marl.launchers.main import COMMANDS

HEAVY = ("torch", "numpy", "pettingzoo", "mpi4py", "matplotlib", "wandb")


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


@pytest.mark.parametrize(
    "argv",
    [[name, "--help"] for name in ("evaluate", "play", "plot", "track", "tournament")]
    + [["bench", "rollout", "--help"]],
)
def test_help_of_commands_that_train_nothing_loads_nothing_heavy(argv):
    program = (
        "import sys\n"
        "from marl.launchers.main import main\n"
        f"try: main({argv})\n"
        "except SystemExit: pass\n"
        f"print(sorted(set({HEAVY}) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]"
    assert f"usage: marl {argv[0]}" in done.stdout


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
        f"print(sorted(set({HEAVY}) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines() == ["[]"]


MODULE = """
import pettingzoo

def make():
    return pettingzoo.make("aec", "classic/tictactoe-v3")

class Lowest:
    def act(self, agent, observation, action_mask):
        return int(action_mask.argmax())
"""


@pytest.mark.parametrize("ranks", [(), ("--ranks", "2")], ids=["one process", "two ranks"])
def test_modules_in_the_current_folder_are_found_behind_all_that_is_installed(tmp_path, ranks):
    """By the console script, by the ranks that it starts, and for environments and players alike."""
    (tmp_path / "my_module.py").write_text(MODULE)
    # Names that packages need: a folder that came first would hide them.
    for name in ("safetensors", "pettingzoo"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('hidden')")
    program = Path(sys.executable).parent / "marl"
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def marl(*words):
        done = subprocess.run(
            [program, *words, *ranks], cwd=tmp_path, env={**variables, **POLITE}, capture_output=True, text=True
        )
        assert done.returncode == 0, done

    marl("train", "ippo", "my_module:make", "--steps", "64", *SHORT, "--out", "run")
    players = ("--players", "low=my_module:Lowest", "trained=run", "--games", "4")
    marl("tournament", "my_module:make", *players, "--out", "tournament")
    assert (tmp_path / "tournament" / "results.json").exists()
