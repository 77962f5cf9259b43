"""Learning curves of several runs: seeds of one configuration together, with confidence bands."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from marl.errors import InputError, closest
from marl.files import write_atomically
from marl.launchers.console import warn
from marl.launchers.reports.curve_statistics import Array, Statistic, bootstrap_band, smooth
from marl.launchers.reports.drawing import load_matplotlib, new_figure
from marl.launchers.run.config_comparison import SCHEDULE_FIELDS, flatten_config
from marl.launchers.run.run_directory import RUN_ID, RunDirectory
from marl.loggers.journal import read_journal

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Tol's "bright" scheme, distinct for the colour-blind and in print; https://personal.sron.nl/~pault/
_COLOURS: Final = ("#4477AA", "#EE6677", "#228833", "#AA3377", "#66CCEE", "#CCBB44", "#777777")
_STYLES: Final = ("-", "--", ":", "-.")
_POINTS: Final = 200
# Fields in which repetitions of one experiment may differ.
_REPETITION: Final = {RUN_ID, "seed", *SCHEDULE_FIELDS} - {"steps"}
_LABELS: Final = {
    "episode_return/mean": "Episode return",
    "evaluation/return_mean": "Evaluated return",
    "env_steps_per_second": "Environment steps per second",
    "episode_length/mean": "Episode length",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One metric of a run over environment steps."""

    path: Path
    config: dict[str, Any]
    """Flat, by dotted names, repetition fields left out."""
    seed: Any
    """As in the configuration; None where it has none."""
    steps: Array
    """(N,), rising."""
    values: Array
    """(N,), finite."""


def plot_runs(
    runs: Sequence[Path],
    out: Path,
    *,
    key: str = "episode_return/mean",
    statistic: Statistic = "mean",
    title: str | None = None,
    smoothing: float = 0.03,
) -> None:
    """Draws learning curves of runs.

    Runs whose configurations differ in nothing but the seed are one line: the mean or the interquartile mean over
    them (one line to standard error says where they share a seed), with a 95 % bootstrap band (Agarwal et al. 2021,
    "Deep reinforcement learning at the edge of the statistical precipice"). A run alone is drawn as it is, faintly,
    with a smoothed line over it.

    Args:
        runs: run directories.
        out: the picture; its ending says which kind: png, svg, pdf.
        key: the metric of the journal, over ``env_steps``.
        statistic: over runs.
        title: above the picture; by default the environment's name, where all runs have the same.
        smoothing: width of the moving average, as a share of a run's length; 0 for none.

    Raises:
        InputError: a run is missing or has no such metric yet, or the picture's kind is unknown.
    """
    if not runs:
        raise InputError("name at least one run to plot")
    curves = [read_curve(run, key) for run in runs]
    groups = group_curves(curves)
    names = label_groups(groups)
    load_matplotlib()
    _check_kind(out)
    import matplotlib
    from matplotlib.ticker import FuncFormatter

    kind = out.suffix[1:].lower()
    contents = [_count(group) for group in groups]
    alike = len(set(contents)) == 1 or len(groups) == len(curves)
    reading = "IQM" if statistic == "iqm" else "mean"
    legend = None
    if any(len(group) > 1 for group in groups):
        several = "runs" if any("run" in content for content in contents) else "seeds"
        legend = f"{reading} of {contents[0]}, 95 % CI" if alike else f"{reading} over {several}, 95 % CI"
    for name, content in zip(names, contents, strict=True):
        if " of " in content:
            warn(f"{name}: {content}; equal seeds tell nothing about others, so the interval promises too much")
    with matplotlib.rc_context(_RC):
        figure = new_figure(6.4, 4.0)
        axes = figure.add_subplot()
        for index, (name, group) in enumerate(zip(names, groups, strict=True)):
            colour = _COLOURS[index % len(_COLOURS)]
            style = _STYLES[index // len(_COLOURS) % len(_STYLES)]
            label = name if alike else f"{name} ({contents[index]})"
            _draw(axes, group, label, colour, style, statistic, smoothing)
        axes.set_xlabel("Environment steps")
        axes.set_ylabel(_LABELS.get(key, key))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda steps, _: format_steps(steps)))
        axes.set_xlim(0.0, 1.005 * max(curve.steps[-1] for curve in curves) or 1.0)
        if title is None:
            environments = {_field(curve, "env") for curve in curves}
            title = environments.pop() if len(environments) == 1 else ""
        if title:
            axes.set_title(title)
        axes.legend(loc="best", ncols=1 if len(groups) <= 6 else 2, title=legend, alignment="left")
        picture = io.BytesIO()
        figure.savefig(picture, format=kind, metadata=_UNDATED.get(kind))
    out = Path(out)
    if out.parent != Path():
        _make_parent(out)
    write_atomically(out, picture.getvalue())


def read_curve(run: Path, key: str) -> Curve:
    """Reads one metric of a run's journal; rows without it, or where it is not finite, are left out.

    Raises:
        InputError: no such run, no rows yet, or no row with the key.
    """
    directory = RunDirectory.open(run)
    steps: list[float] = []
    values: list[float] = []
    keys: set[str] = set()
    for row in read_journal(directory.metrics):
        keys |= row.keys()
        if key in row and "env_steps" in row and math.isfinite(row[key]):
            steps.append(row["env_steps"])
            values.append(row[key])
    if not keys:
        raise InputError(f"{directory.path} has no metrics yet: {directory.metrics.name} is empty")
    if not steps:
        if key in keys:
            raise InputError(f"{directory.path} has only values that are not finite for {key}; nothing to draw")
        near = closest(key, keys, cutoff=0.3)
        hint = f"it has {', '.join(sorted(keys))}" if near is None else f"did you mean {near}?"
        raise InputError(f"{directory.path} has no {key}; {hint}")
    order = np.argsort(steps, kind="stable")
    settings = flatten_config(directory.config)
    config = {name: value for name, value in settings.items() if name not in _REPETITION}
    seed = settings.get("seed")
    return Curve(
        path=directory.path, config=config, seed=seed, steps=np.array(steps)[order], values=np.array(values)[order]
    )


def group_curves(curves: Sequence[Curve]) -> list[list[Curve]]:
    """Groups curves of equal configurations, in the order in which the first of each came."""
    groups: list[list[Curve]] = []
    for curve in curves:
        for group in groups:
            if group[0].config == curve.config:
                group.append(curve)
                break
        else:
            groups.append([curve])
    return groups


def label_groups(groups: Sequence[Sequence[Curve]]) -> list[str]:
    """Names groups for a legend: the algorithm and the settings that tell groups apart; else the folder."""
    labels = []
    for curve in (group[0] for group in groups):
        algorithm = _field(curve, "name")
        alike = [group[0].config for group in groups if _field(group[0], "name") == algorithm]
        fields = sorted({field for config in alike for field in config})
        telling = [field for field in fields if len({repr(config.get(field)) for config in alike}) > 1]
        if algorithm and len(telling) <= 3:
            parts = [f"{_last(field)} {_short(curve.config.get(field))}" for field in telling]
            labels.append(", ".join([algorithm, *parts]))
        else:
            labels.append(curve.path.resolve().name)
    return labels


def format_steps(steps: float) -> str:
    """12,000 as 12k, 1,500,000 as 1.5M."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(steps) >= size:
            return f"{steps / size:g}{unit}"
    return f"{steps:g}"


def _draw(
    axes: Axes,
    group: Sequence[Curve],
    name: str,
    colour: str,
    style: str,
    statistic: Statistic,
    smoothing: float,
) -> None:
    smoothed = [smooth(curve.steps, curve.values, smoothing) for curve in group]
    if len(group) == 1:
        (curve,) = group
        marker = "o" if len(curve.steps) == 1 else ""
        axes.plot(curve.steps, curve.values, color=colour, alpha=0.25, linewidth=0.8)
        axes.plot(curve.steps, smoothed[0], color=colour, linestyle=style, marker=marker, label=name)
        return
    low = max(curve.steps[0] for curve in group)
    high = min(curve.steps[-1] for curve in group)
    if low > high:
        runs = " and ".join(str(curve.path) for curve in group[:2])
        raise InputError(f"{runs} have no environment steps in common; plot one of them, or let them run on")
    grid = np.linspace(low, high, _POINTS)
    values = np.stack([np.interp(grid, curve.steps, line) for curve, line in zip(group, smoothed, strict=True)])
    centre, lower, upper = bootstrap_band(values, statistic)
    axes.fill_between(grid, lower, upper, color=colour, alpha=0.2, linewidth=0.0)
    axes.plot(grid, centre, color=colour, linestyle=style, label=name)


def _field(curve: Curve, name: str) -> str:
    value = curve.config.get(name)
    return value if isinstance(value, str) else ""


def _count(group: Sequence[Curve]) -> str:
    """``3 seeds``; ``3 runs of 1 seed`` where seeds are repeated, and ``3 runs`` where they are not known."""
    if any(curve.seed is None for curve in group):
        return _plural(len(group), "run")
    seeds = len({repr(curve.seed) for curve in group})
    return ("" if seeds == len(group) else f"{len(group)} runs of ") + _plural(seeds, "seed")


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _last(name: str) -> str:
    return name.rpartition(".")[2].replace("_", " ")


def _short(value: Any) -> str:
    return (
        f"{value:g}"
        if isinstance(value, float)
        else "×".join(map(str, value))
        if isinstance(value, list)
        else f"{value}"
    )


def _check_kind(out: Path) -> None:
    from matplotlib.backend_bases import FigureCanvasBase

    kinds = sorted(FigureCanvasBase.get_supported_filetypes())
    if Path(out).suffix[1:].lower() not in kinds:
        raise InputError(
            f"cannot draw {Path(out).name}: its ending says no known kind of picture; use .png, .svg or .pdf"
        )


def _make_parent(out: Path) -> None:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make {out.parent}: {error.strerror}") from error


# The same input gives the same file, whenever it is drawn.
_UNDATED: Final[dict[str, dict[str, Any]]] = {
    "png": {"Software": None},
    "svg": {"Date": None},
    "pdf": {"CreationDate": None},
}
_RC: Final[dict[str, Any]] = {
    "font.size": 10.0,
    "text.parse_math": False,  # names of agents and runs may have dollar signs
    "font.family": "DejaVu Sans",
    "axes.titlesize": 11.0,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#444444",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "legend.fontsize": 9.0,
    "legend.title_fontsize": 9.0,
    "savefig.dpi": 200,
    "svg.hashsalt": "marl",
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
}
