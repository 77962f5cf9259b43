"""Starts programs on several ranks, with a time limit that leaves no process behind."""

import contextlib
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from marl.launchers.jobs.mpirun import mpirun_command, rank_environment

LAUNCH = (
    "import sys; from marl.launchers.jobs.job import launch_program; "
    "sys.exit(launch_program(sys.argv[2:], int(sys.argv[1])))"
)
"""Starts a program on ranks as ``marl … --ranks`` does: the number of ranks, then the command."""


@dataclass(frozen=True)
class Finished:
    code: int
    stdout: str
    stderr: str


def run_limited(command: list[str], environment: dict[str, str], timeout: float) -> Finished:
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )
    try:
        stdout, stderr = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        # mpirun ends its ranks on SIGTERM; its own group is killed where even that takes too long.
        process.terminate()
        try:
            stdout, stderr = process.communicate(timeout=15)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            stdout, stderr = process.communicate()
        pytest.fail(f"no end within {timeout} s\n--- stdout\n{stdout}\n--- stderr\n{stderr}")
    return Finished(process.returncode, stdout, stderr)


def clean_environment(ranks: int) -> dict[str, str]:
    chosen = dict(os.environ) | {"OMP_NUM_THREADS": "1", "OMPI_MCA_mpi_yield_when_idle": "true"}
    return rank_environment(ranks, chosen)


def start_on_ranks(ranks: int, program: Path, *arguments: str, timeout: float = 120) -> Finished:
    command = mpirun_command([sys.executable, str(program), *arguments], ranks)
    return run_limited(command, clean_environment(ranks), timeout)
