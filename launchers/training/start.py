"""The start of commands that train: in this process, or on ranks of their own under a supervisor.

A process that only starts ranks computes nothing, so nothing here loads torch: mpirun is at work at once, and it is the
ranks that read and check all options but those that say how ranks are started.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from marl.errors import InputError
from marl.launchers.command_line.help import wants_help
from marl.launchers.command_line.options import find_options
from marl.launchers.command_line.reading import split_words
from marl.launchers.console import read_options, require_not_negative, require_positive
from marl.launchers.environment_variables import world_size_from_environment
from marl.launchers.run.catalog import find_algorithm
from marl.launchers.run.run_directory import new_run_path
from marl.launchers.stopping import EARLY, StopRequest
from marl.launchers.supervision.supervisor import Supervisor

_OWN: Final = (("ranks",), ("out",), ("max_restarts",), ("resume",))
"""Options that ranks are given by the supervisor."""


@dataclass(frozen=True, kw_only=True)
class JobOptions:
    """Options of commands that train about their ranks, their run directory and their supervision."""

    ranks: int | None = None
    """Start that many MPI ranks on this machine."""
    out: Path | None = None
    """The run directory; a new one under runs/ if not given."""
    resume: bool = False
    """Go on with the run in --out from its newest checkpoint."""
    elastic: bool = False
    """Whether ranks go on when one of them dies (Open MPI 5 with ULFM)."""
    max_restarts: int = 0
    """Number of times that a job that failed is started again from its newest checkpoint."""
    watchdog: float = 1800.0
    """Seconds without progress after which the late rank is named and the job ended; 0 for never."""

    def check(self) -> None:
        """Raises InputError where a number makes no sense, or what is to be resumed is not named."""
        require_positive(ranks=self.ranks)
        require_not_negative(max_restarts=self.max_restarts, watchdog=self.watchdog)
        if self.resume and self.out is None:
            raise InputError("--resume needs --out: which run?")


@dataclass(frozen=True, kw_only=True)
class LaunchOptions(JobOptions):
    """Options that the process that starts ranks reads itself."""

    seed: int = 0
    """For the name of the run directory; ranks read it for everything else."""


def train(argv: list[str]) -> int:
    """``marl train``; see ``main.main`` for the exit codes."""
    return _start("train", argv)


def league(argv: list[str]) -> int:
    """``marl league``; see ``main.main`` for the exit codes."""
    return _start("league", argv)


def _start(command: str, argv: list[str]) -> int:
    """Runs ``training.COMMAND:COMMAND`` here, or where ranks or restarts are wanted, under a supervisor."""
    with StopRequest(EARLY):
        return _start_listening(command, argv)


def _start_listening(command: str, argv: list[str]) -> int:
    named = len(argv) > 1 and not any(argument.startswith("-") for argument in argv[:2])
    if named and not wants_help(argv) and world_size_from_environment() is None:
        algorithm, env, *rest = argv
        find_algorithm(algorithm)
        known = find_options(LaunchOptions)
        # What this process does not know is for the ranks.
        given = split_words(rest, known)
        own = [word for one in given if one.option is not None for word in one.typed]
        options: LaunchOptions = read_options(LaunchOptions, own, program=f"marl {command} {algorithm} {env}")
        options.check()
        if options.ranks is not None or options.max_restarts:
            passed = [word for one in given if one.option is None or one.option.path not in _OWN for word in one.typed]
            return _supervise(command, algorithm, env, options, passed)
    here: Callable[[list[str]], int] = getattr(importlib.import_module(f"marl.launchers.training.{command}"), command)
    return here(argv)


def _supervise(command: str, algorithm: str, env: str, options: LaunchOptions, argv: list[str]) -> int:
    with contextlib.ExitStack() as held:
        supervisor = Supervisor(
            [command, algorithm, env, *argv],
            options.out or held.enter_context(new_run_path(algorithm, env, options.seed)),
            options.ranks or 1,
            max_restarts=options.max_restarts,
            watchdog=options.watchdog,
            resume=options.resume,
            elastic=options.elastic,
        )
        return supervisor.supervise()
