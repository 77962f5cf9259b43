"""Small pieces of text for messages, and the reading of options."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

from marl.errors import InputError, OrderlyExit
from marl.launchers.command_line.help import help_text, wants_help
from marl.launchers.command_line.options import find_options
from marl.launchers.command_line.reading import build_options, read_values
from marl.streams import write_error

OptionsT = TypeVar("OptionsT")


def describe_evaluation(summary: Mapping[str, float]) -> str:
    """``return -25.10 ± 1.20 (95 %) over 100 greedy episodes``; one episode has no interval."""
    interval = summary["evaluation/return_ci95"]
    spread = f" ± {interval:.2f} (95 %)" if math.isfinite(interval) else ""
    episodes = int(summary["evaluation/episodes"])
    plural = "s" * (episodes != 1)
    limits = int(summary.get("evaluation/step_limits", 0))
    stopped = f", {limits} of them cut at the step limit" if limits else ""
    return f"return {summary['evaluation/return_mean']:.2f}{spread} over {episodes} greedy episode{plural}{stopped}"


def warn(line: str) -> None:
    """Prints a line to standard error, as ``marl``."""
    write_error(f"marl: {line}\n")


def read_options(
    kind: type[OptionsT] | Any, argv: Sequence[str], *, program: str, default: OptionsT | None = None
) -> OptionsT:
    """Reads a dataclass from command-line arguments; ``--help`` and ``--help-all`` print and exit.

    Args:
        kind: the dataclass.
        argv: the arguments.
        program: the command that they follow, for messages.
        default: what was not given; the fields' own defaults if there is none.

    Raises:
        InputError: an option is unknown (the nearest is named) or its value cannot be read; one line.
    """
    options = find_options(kind, default)
    if wants_help(argv):
        _print_help(help_text(program, options, everything="--help-all" in argv))
        raise OrderlyExit(0)
    read: OptionsT = build_options(kind, read_values(argv, options, program), default)
    return _with_absolute_paths(read)


def require_not_negative(**options: float) -> None:
    """InputError where an option (named by its field) is below 0."""
    for name, value in options.items():
        if not value >= 0:
            raise InputError(f"--{name.replace('_', '-')} cannot be negative, got {value}")


def _print_help(text: str) -> None:
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # A pager was left, or `head` has seen enough; Python would fail once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _with_absolute_paths(options: OptionsT) -> OptionsT:
    """Options whose paths lead to the same files in whatever folder an environment leaves the process."""
    changed: dict[str, Any] = {}
    for entry in fields(options):  # type: ignore[arg-type]
        value = getattr(options, entry.name)
        if isinstance(value, Path):
            changed[entry.name] = value.absolute()
        elif isinstance(value, tuple) and any(isinstance(one, Path) for one in value):
            changed[entry.name] = tuple(one.absolute() if isinstance(one, Path) else one for one in value)
    return replace(options, **changed) if changed else options  # type: ignore[type-var]


def require_positive(**options: int | None) -> None:
    """InputError where an option (named by its field) is below 1; None is fine."""
    for name, value in options.items():
        if value is not None and value < 1:
            raise InputError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
