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
from marl.loggers.terminal import WorkLine
from marl.progress import Progress
from marl.resources.streams import write_error

OptionsT = TypeVar("OptionsT")


def describe_evaluation(summary: Mapping[str, float], mode: str = "greedy") -> str:
    """``return -25.10 ± 1.20 (95 %) over 100 greedy episodes``; one episode has no interval.

    Where both modes were played, the other's return follows; further lines tell where they part, and the outcomes of
    games where sides oppose each other.

    Args:
        summary: of an Evaluation.
        mode: of the headline.
    """
    episodes = int(summary["evaluation/episodes"])
    plural = "s" * (episodes != 1)
    limits = int(summary.get("evaluation/step_limits", 0))
    stopped = f", {limits} of them cut at the step limit" if limits else ""
    line = f"{_interval(summary, 'evaluation/')} over {episodes} {mode} episode{plural}{stopped}"
    prefixes = {mode: "evaluation/"}
    if mode == "greedy" and "evaluation/sampled/return_mean" in summary:
        prefixes["sampled"] = "evaluation/sampled/"
        line += f"; sampled {_interval(summary, 'evaluation/sampled/').removeprefix('return ')}"
        limits = int(summary.get("evaluation/sampled/step_limits", 0))
        line += f", {limits} cut at the step limit" if limits else ""
    lines = [line]
    if len(prefixes) == 2 and _parted(summary):
        lines.append(
            "greedy and sampled play part: what was trained is the sampled policy, and its best actions alone are "
            "another one"
        )
    for name, prefix in prefixes.items():
        for kind, games in (("", "among themselves"), ("random/", "against random moves")):
            rates = _rates(summary, f"{prefix}{kind}")
            if rates:
                lines.append(f"{name}, {games}: {'; '.join(rates)}")
    return "\n".join(lines)


def _interval(summary: Mapping[str, float], prefix: str) -> str:
    if f"{prefix}random/score" in summary and any(key.startswith(f"{prefix}win_rate/") for key in summary):
        # Returns of opposed sides add up to nothing that tells how well they play.
        return f"score {summary[f'{prefix}random/score']:.2f} against random moves"
    half = summary[f"{prefix}return_ci95"]
    spread = f" ± {half:.2f} (95 %)" if math.isfinite(half) else ""
    return f"return {summary[f'{prefix}return_mean']:.2f}{spread}"


def _parted(summary: Mapping[str, float]) -> bool:
    """Returns whether the intervals of the two modes' returns do not overlap."""
    means = [summary[f"{prefix}return_mean"] for prefix in ("evaluation/", "evaluation/sampled/")]
    halves = [summary[f"{prefix}return_ci95"] for prefix in ("evaluation/", "evaluation/sampled/")]
    return all(map(math.isfinite, halves)) and abs(means[0] - means[1]) > sum(halves)


def _rates(summary: Mapping[str, float], prefix: str) -> list[str]:
    """``player_0 wins 97 %, draws 2 %, loses 1 %`` for each side."""
    found = f"{prefix}win_rate/"
    parts = []
    for side in (key.removeprefix(found) for key in summary if key.startswith(found)):
        wins, draws, losses = (100.0 * summary[f"{prefix}{kind}_rate/{side}"] for kind in ("win", "draw", "loss"))
        mean = summary.get(f"{prefix}return/{side}")
        told = f", return {mean:.2f}" if mean is not None else ""
        parts.append(f"{side} wins {wins:.0f} %, draws {draws:.0f} %, loses {losses:.0f} %{told}")
    return parts


def warn(line: str) -> None:
    """Prints a line to standard error, as ``marl``."""
    write_error(f"marl: {line}\n")


def print_progress() -> Progress:
    """Returns a progress that is printed to standard error every few seconds; every minute where that is a file."""
    line = WorkLine(seconds=5.0 if sys.stderr.isatty() else 60.0)

    def tell(what: str, done: int, total: int) -> None:
        if line.tell(what, done, total):
            write_error(f"{line.text}\n")

    return tell


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
