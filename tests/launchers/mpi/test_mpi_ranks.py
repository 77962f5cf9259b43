import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from marl.distributed.communicators import SerialCommunicator
from marl.errors import InputError, OrderlyExit
from marl.launchers.environment_variables import world_size_from_environment
from marl.launchers.mpi.ranks import communicator_from_environment, run_on_ranks

NAMES = ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "PMI_SIZE", "PMI_RANK", "PMIX_RANK", "SLURM_STEP_NUM_TASKS")
ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


def test_a_process_started_alone_is_serial_and_loads_no_mpi():
    assert isinstance(communicator_from_environment(), SerialCommunicator)
    script = (
        "import sys; from marl.launchers.mpi import ranks; "
        "ranks.communicator_from_environment(); assert 'mpi4py' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("name", ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"])
def test_the_launcher_says_how_many_ranks_there_are(monkeypatch, name):
    assert world_size_from_environment() is None
    monkeypatch.setenv(name, "3")
    assert world_size_from_environment() == 3
    monkeypatch.setenv(name, "")
    assert world_size_from_environment() is None


def test_mpirun_inside_a_slurm_shell_counts_before_slurm(monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "4")
    assert world_size_from_environment() == 4


@pytest.mark.parametrize(
    ("size_name", "rank_name"), [("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"), ("PMI_SIZE", "PMI_RANK")]
)
def test_singletons_of_a_wrong_mpirun_are_refused_once(size_name, rank_name):
    script = "import sys; from marl.launchers.mpi.ranks import run_on_ranks; sys.exit(run_on_ranks(lambda c: 0))"
    said = []
    for rank in range(2):
        environment = dict(os.environ) | {size_name: "2", rank_name: str(rank)}
        done = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 2
        said.append(done.stderr)
    assert "the launcher started 2 ranks, but MPI sees 1" in said[0]
    assert "--ranks 2" in said[0]
    assert said[0].count("\n") == 1
    assert said[1] == ""


@pytest.mark.parametrize("code", [0, 1, 75])
def test_a_single_process_ends_with_the_code_of_its_main(code):
    assert run_on_ranks(lambda communicator: code) == code


def test_wrong_input_is_one_line_and_code_2(capfd):
    def main(communicator):
        raise InputError("no such environment")

    assert run_on_ranks(main) == 2
    assert capfd.readouterr().err == "marl: no such environment\n"


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ZeroDivisionError("by zero"), 1, "ZeroDivisionError: by zero\n"),
        (KeyboardInterrupt(), 130, "marl: interrupted\n"),
        (OrderlyExit(0), 0, ""),
        (OrderlyExit(3), 3, ""),
        (SystemExit(), 1, "called sys.exit(None) before the work was done\n"),
        (SystemExit(0), 1, "called sys.exit(0) before the work was done\n"),
        (SystemExit(2), 1, "called sys.exit(2) before the work was done\n"),
        (SystemExit(75), 1, "called sys.exit(75) before the work was done\n"),
        (SystemExit(3), 3, "called sys.exit(3) before the work was done\n"),
        (SystemExit("no more"), 1, "called sys.exit('no more') before the work was done\n"),
    ],
)
def test_a_single_process_that_raises_says_why(capfd, error, code, line):
    def main(communicator):
        raise error

    assert run_on_ranks(main) == code
    said = capfd.readouterr().err
    assert said.endswith(line)
    assert ("Traceback" in said) == (code == 1 and "by zero" in line)
    assert "[rank" not in said


def test_mpi4py_is_imported_in_one_module_only():
    importers = set()
    for package in ("marl", "envs", "algorithms", "launchers"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                if any(name.split(".")[0] == "mpi4py" for name in names):
                    importers.add(path.relative_to(ROOT).as_posix())
    assert {path.rpartition("/")[0] for path in importers} == {"launchers/mpi"}
