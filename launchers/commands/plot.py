"""``marl plot``: learning curves of one or more runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from marl.errors import InputError
from marl.launchers.command_line.options import Positional
from marl.launchers.console import read_options


@dataclass(frozen=True, kw_only=True)
class PlotOptions:
    """Options of ``marl plot``."""

    runs: Positional[tuple[Path, ...]]
    """Run directories; those that differ in the seed only are one curve."""
    out: Path = Path("learning_curves.png")
    """The file of the picture: .png, .svg or .pdf."""
    key: str = "episode_return/mean"
    """The metric of metrics.jsonl."""
    statistic: Literal["mean", "iqm"] = "mean"
    """Mean or interquartile mean over seeds."""
    title: str | None = None
    """The title above the picture."""


def plot(argv: list[str]) -> int:
    """Draws learning curves."""
    options: PlotOptions = read_options(PlotOptions, argv, program="marl plot")
    if not options.runs:
        raise InputError("which runs? For instance: marl plot runs/a runs/b --out curves.png")
    from marl.launchers.reports.curves import plot_runs

    plot_runs(options.runs, options.out, key=options.key, statistic=options.statistic, title=options.title)
    print(options.out)
    return 0
