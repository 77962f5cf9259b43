"""The picture of a tournament's results."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from marl.files import reported_as_input_error
from marl.launchers.reports.curves import format_steps
from marl.launchers.reports.drawing import label_points, load_matplotlib, new_figure, text_colour
from marl.launchers.tournament.report import in_leaderboard_order
from marl.launchers.tournament.results import TournamentResults


def write_picture(path: Path, results: TournamentResults, *, title: str, steps: Mapping[str, int | None]) -> None:
    """Draws ratings with their intervals, scores of pairs, and ratings over training steps where several are known.

    Args:
        path: a .png.
        results: of the tournament.
        title: above the picture.
        steps: environment steps that each player was trained for, None for those that were not.
    """
    trained = [(step, one) for one in results.standings if (step := steps.get(one.player)) is not None]
    trained.sort(key=lambda pair: pair[0])
    curve = len({step for step, _ in trained}) > 1
    names = [one.player for one in results.standings]
    size = max(3.0, 0.45 * len(names) + 1.5)
    load_matplotlib()
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    figure = new_figure(4.5 + size + 1.0 + (4.5 if curve else 0.0), size)
    axes = figure.subplots(1, 3 if curve else 2, width_ratios=[4.5, size + 1.0, *([4.5] if curve else [])])
    figure.suptitle(title)
    rows = np.arange(len(names))
    for row, one in zip(rows, results.standings, strict=True):
        interval, middle = (one.return_interval, one.mean_return) if results.cooperative else (one.interval, one.elo)
        axes[0].plot(interval, (row, row), color="tab:blue", linewidth=2)
        axes[0].plot(middle, row, "o", color="tab:blue")
    axes[0].set_yticks(rows, names)
    axes[0].invert_yaxis()
    axes[0].set_xlabel("mean return, 95 %" if results.cooperative else "Elo, 95 %")
    axes[0].grid(axis="x", alpha=0.3)
    rates = in_leaderboard_order(results, results.win_rates)
    shown = axes[1].imshow(rates, vmin=0.0, vmax=1.0, cmap="RdYlGn")
    axes[1].set_xticks(rows, names, rotation=45, ha="right")
    axes[1].set_yticks(rows, names)
    axes[1].set_title("score of the row against the column", fontsize="medium")
    if len(names) <= 16:
        for row in rows:
            for column in rows:
                if row != column and not math.isnan(rates[row, column]):
                    text = f"{100 * rates[row, column]:.0f}"
                    colour = text_colour(shown.to_rgba(rates[row, column]))
                    axes[1].text(column, row, text, ha="center", va="center", fontsize="small", color=colour)
    figure.colorbar(shown, ax=axes[1], shrink=0.8)
    if curve:
        elo = np.array([one.elo for _, one in trained])
        errors = np.abs(np.array([one.interval for _, one in trained]).T - elo)
        axes[2].errorbar([step for step, _ in trained], elo, yerr=errors, fmt="o", capsize=3)
        axes[2].set_xlabel("environment steps of training")
        axes[2].set_ylabel("Elo")
        axes[2].xaxis.set_major_locator(MaxNLocator(5))
        axes[2].xaxis.set_major_formatter(FuncFormatter(lambda steps, _: format_steps(steps)))
        axes[2].grid(alpha=0.3)
        axes[2].margins(x=0.15, y=0.1)
        points = [(float(step), one.elo) for step, one in trained]
        label_points(axes[2], points, [one.player for _, one in trained])
    with reported_as_input_error(f"write {path}"):
        figure.savefig(path, dpi=110)
