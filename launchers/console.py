"""Small pieces of text for messages, and the reading of options."""

from __future__ import annotations

import contextlib
import io
import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

from marl.errors import InputError, closest
from marl.loggers.terminal import WorkLine
from marl.progress import Progress

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
    print(f"marl: {line}", file=sys.stderr, flush=True)


def print_progress() -> Progress:
    """Returns a progress that is printed to standard error every few seconds; every minute where that is a file."""
    line = WorkLine(seconds=5.0 if sys.stderr.isatty() else 60.0)

    def tell(what: str, done: int, total: int) -> None:
        if line.tell(what, done, total):
            print(line.text, file=sys.stderr, flush=True)

    return tell


def read_options(
    kind: type[OptionsT] | Any, argv: Sequence[str], *, program: str, others: bool = False, **settings: Any
) -> OptionsT:
    """Reads a dataclass from command-line arguments; ``--help`` prints and exits.

    Args:
        kind: the dataclass.
        argv: the arguments.
        program: the command that they follow, for messages.
        others: whether arguments that the dataclass does not know are left to others instead of refused.
        settings: of ``tyro.cli``.

    Raises:
        InputError: an option is unknown (the nearest is named) or its value cannot be read; one line.
    """
    import tyro

    stderr = io.StringIO()
    try:
        with contextlib.redirect_stderr(stderr):
            options: OptionsT
            options, unknown = tyro.cli(kind, args=list(argv), prog=program, return_unknown_args=True, **settings)
    except SystemExit as error:
        if error.code in (0, None):
            raise
        raise InputError(_one_line(stderr.getvalue())) from None
    if unknown and not others:
        if not unknown[0].startswith("-"):
            raise InputError(f"{program} has no use for {unknown[0]!r}; its options begin with --")
        word = unknown[0].partition("=")[0]
        raise InputError(f"there is no option {word}{_nearest_option(word, _option_names(options))}")
    return options


def require_positive(**options: int | None) -> None:
    """InputError where an option (named by its field) is below 1; None is fine."""
    for name, value in options.items():
        if value is not None and value < 1:
            raise InputError(f"--{name.replace('_', '-')} must be at least 1, got {value}")


def _option_names(options: Any, prefix: str = "") -> list[str]:
    """Options of a dataclass and of those in it, as they are typed."""
    names: list[str] = []
    for entry in fields(options):
        value = getattr(options, entry.name)
        if is_dataclass(value):
            names += _option_names(value, f"{prefix}{entry.name}.")
        elif "Positional" not in str(entry.type):
            names.append(f"--{prefix}{entry.name}".replace("_", "-"))
    return names


def _nearest_option(word: str, known: Sequence[str]) -> str:
    # People leave out the part before the dot, so names are compared without it too.
    ends = {option.lstrip("-").rpartition(".")[2]: option for option in known}
    name = word.lstrip("-")
    near = ends[name] if name in ends else closest(word, known, cutoff=0.7)
    if near is None and (end := closest(name.rpartition(".")[2], ends, cutoff=0.7)) is not None:
        near = ends[end]
    return "; --help lists all" if near is None else f"; did you mean {near}?"


def _one_line(box: str) -> str:
    """The message that tyro prints in a frame, without the frame."""
    lines: list[str] = []
    for line in box.splitlines():
        if "────" not in line:
            lines.append(line.strip("│ "))
        elif any(lines):
            break
    return re.sub(r"\s+", " ", " ".join(lines)).strip().partition(". Got errors")[0].rstrip(".")
