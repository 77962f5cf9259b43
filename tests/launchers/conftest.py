"""The marl command as a function, in this process or in one of its own, and runs to look at."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from command_line import HERE, POLITE, SHORT, SPREAD, Finished, quietly

from marl.launchers.main import main

Marl = Callable[..., Finished]


@pytest.fixture
def marl(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Marl:
    """``marl("train", ...)`` runs the command in this process; what it starts finds the toy games."""
    for name, value in POLITE.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", str(HERE), prepend=os.pathsep)

    def run(*argv: object) -> Finished:
        capfd.readouterr()
        try:
            code = main([str(word) for word in argv])
        except SystemExit as error:  # --help, and ranks that were told by another
            code = int(error.code or 0)
        said = capfd.readouterr()
        return Finished(code, said.out, said.err)

    return run


@pytest.fixture
def refused(marl: Marl) -> Callable[..., str]:
    """Runs a command that must be refused with exit code 2 and one line, and returns that line."""

    def run(*argv: object) -> str:
        done = marl(*argv)
        lines = done.stderr.splitlines()
        assert (done.code, len(lines)) == (2, 1), done
        assert lines[0].startswith("marl: ")
        return lines[0].removeprefix("marl: ")

    return run


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """``start("train", ...)`` starts the command in a process of its own, which does not outlive the test."""
    started: list[subprocess.Popen[str]] = []

    def run(*argv: object, **variables: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "marl.launchers.main", *map(str, argv)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **POLITE, "PYTHONPATH": str(HERE), **variables},
            start_new_session=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
        for pipe in (process.stdout, process.stderr):
            assert pipe is not None
            pipe.close()


@pytest.fixture(scope="session")
def spread_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three updates of MAPPO on simple_spread, undisturbed."""
    path = tmp_path_factory.mktemp("runs") / "spread"
    quietly("train", "mappo", SPREAD, "--steps", 300, *SHORT, "--out", path)
    return path


@pytest.fixture(scope="session")
def tictactoe_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two updates of recurrent MAPPO on a turn-based game with masks."""
    path = tmp_path_factory.mktemp("runs") / "tictactoe"
    argv = ("--algorithm.recurrent", "--algorithm.hidden-sizes", "16", "--algorithm.epochs", "2")
    quietly("train", "mappo", "toy_game:strict_tictactoe", "--steps", 200, *SHORT, *argv, "--out", path)
    return path
