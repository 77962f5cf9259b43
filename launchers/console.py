"""Small pieces of text for messages, and the reading of options."""

from __future__ import annotations

import contextlib
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from marl.errors import InputError, closest
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
    return _with_absolute_paths(options)


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
