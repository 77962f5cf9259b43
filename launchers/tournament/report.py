"""A tournament's numbers: the leaderboard as text and CSV, and tables and curves for W&B."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from marl.files import write_atomically
from marl.launchers.reports.wandb_upload import upload_rows
from marl.launchers.run.policy_sources import MIXTURE
from marl.launchers.run.run_directory import RunDirectory
from marl.launchers.tournament.results import TournamentResults
from marl.loggers.wandb import WandbLogger
from marl.types import Floats


def table_text(results: TournamentResults) -> str:
    """The leaderboard in plain text."""
    width = max(6, *(len(standing.player) for standing in results.standings))
    if results.cooperative:
        return _cooperative_text(results, width)
    lines = [f"{'':>3}  {'player':<{width}}  {'Elo':>7}  {'95 %':^17}  {'score':>6}  {'games':>6}  {'forfeits':>8}"]
    for place, one in enumerate(results.standings, 1):
        low, high = one.interval
        lines.append(
            f"{place:>3}  {one.player:<{width}}  {one.elo:>7.1f}  [{low:>7.1f},{high:>7.1f}]  "
            f"{100 * one.score:>5.1f}%  {one.games:>6}  {sum(one.forfeits.values()):>8}"
        )
    if results.step_limits:
        lines.append(f"{results.step_limits} games reached the step limit and count as draws")
    return "\n".join(lines)


def _cooperative_text(results: TournamentResults, width: int) -> str:
    """The leaderboard by mean return, and the returns of each two players together."""
    lines = [f"{'':>3}  {'player':<{width}}  {'return':>9}  {'95 %':^21}  {'games':>6}  {'forfeits':>8}"]
    for place, one in enumerate(results.standings, 1):
        low, high = one.return_interval
        lines.append(
            f"{place:>3}  {one.player:<{width}}  {one.mean_return:>9.3f}  [{low:>9.3f},{high:>9.3f}]  "
            f"{one.games:>6}  {sum(one.forfeits.values()):>8}"
        )
    lines += [
        "the sides win and lose together, so players are ranked by mean return, and Elo says nothing;",
        "marl evaluate RUN plays one in all seats",
        "return of the row's side, together with the column's player:",
        f"{'':<{width}}  " + "  ".join(f"{one.player[:9]:>9}" for one in results.standings),
    ]
    table = in_leaderboard_order(results, results.mean_returns)
    for one, row in zip(results.standings, table.tolist(), strict=True):
        cells = ("-" if math.isnan(value) else f"{value:.3f}" for value in row)
        lines.append(f"{one.player:<{width}}  " + "  ".join(f"{cell:>9}" for cell in cells))
    if results.step_limits:
        lines.append(f"{results.step_limits} games reached the step limit")
    return "\n".join(lines)


def write_csv(path: Path, results: TournamentResults) -> None:
    """The leaderboard, one player a line, best first."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns, rows = leaderboard(results)
    writer.writerow(columns)
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode())


def leaderboard(results: TournamentResults) -> tuple[list[str], list[list[str | float | None]]]:
    """Names of columns, and a row a player, best first."""
    sides = list(results.standings[0].seats)
    columns = ["place", "player", "elo", "elo_low", "elo_high", "score", "games", "wins", "draws", "losses"]
    columns += ["mean_return", *(f"games_as_{side}" for side in sides)]
    columns += ["crashes", "timeouts", "illegal_moves", "step_limits", "nash_share", "nash_rating", "alpha_rank"]
    rows: list[list[str | float | None]] = []
    for place, one in enumerate(results.standings, 1):
        cells: list[str | float | None] = [place, one.player, one.elo, *one.interval, one.score]
        cells += [one.games, one.wins, one.draws, one.losses]
        cells += [one.mean_return, *(one.seats[side] for side in sides)]
        cells += [one.forfeits["crash"], one.forfeits["timeout"], one.forfeits["illegal"], one.step_limits]
        cells += [one.nash_share, one.nash_rating, one.alpha_rank]
        rows.append(cells)
    return columns, rows


def log_to_wandb(
    directory: RunDirectory,
    results: TournamentResults,
    summary: Mapping[str, Any],
    *,
    mode: Literal["offline", "online"],
    project: str,
) -> None:
    """Sends a tournament to W&B: leaderboard and payoff as tables, and ratings over environment steps of training.

    Each run or league has a curve of its own, ``elo/NAME`` with ``elo_low`` and ``elo_high``. Where W&B is not
    available one line says so, and nothing is lost: the folder has it all.

    Args:
        directory: the tournament's.
        results: of the tournament.
        summary: the content of ``results.json``.
        mode: ``offline`` writes into the directory, for ``wandb sync``.
        project: the W&B project.
    """
    names = [one.player for one in results.standings]
    rates = in_leaderboard_order(results, results.win_rates).tolist()
    payoff = [
        [name, *(None if math.isnan(rate) else rate for rate in row)] for name, row in zip(names, rates, strict=True)
    ]

    def attach_tables(logger: WandbLogger) -> None:
        logger.log_table("leaderboard", *leaderboard(results))
        logger.log_table("payoff", ["player", *names], payoff)

    rows = rating_rows(results, summary["players"])
    group = f"tournament {summary['env']}"
    upload = upload_rows(directory, rows, mode, project, attach=attach_tables, group=group)
    if upload.failure is not None or upload.warnings:
        print(f"marl: W&B has not got all of it ({upload.failure or upload.warnings[0]}); the same command tries again")


def rating_rows(results: TournamentResults, players: Mapping[str, Mapping[str, Any]]) -> list[dict[str, float]]:
    """Ratings over training, ascending: a row for each number of environment steps of trained players.

    Args:
        results: of the tournament.
        players: by name, with ``source`` and ``env_steps``, None for those that were not trained.
    """
    rows: dict[int, dict[str, float]] = {}
    for one in results.standings:
        about = players[one.player]
        if about["env_steps"] is None or str(about["source"]).endswith(f"@{MIXTURE}"):
            continue
        # Snapshots of one league and checkpoints of one run make one curve.
        path = Path(str(about["source"]).partition("@")[0])
        folder = path.parent.parent if path.parent.name in ("checkpoints", "snapshots") else path
        row = rows.setdefault(int(about["env_steps"]), {"env_steps": int(about["env_steps"])})
        row |= {
            f"elo/{folder.name}": one.elo,
            f"elo_low/{folder.name}": one.interval[0],
            f"elo_high/{folder.name}": one.interval[1],
        }
    return [rows[steps] for steps in sorted(rows)]


def in_leaderboard_order(results: TournamentResults, table: Floats) -> Floats:
    """A table of players in the order of the leaderboard; its diagonal says nothing."""
    order = [results.players.index(one.player) for one in results.standings]
    sorted_table: Floats = table[np.ix_(order, order)].copy()
    np.fill_diagonal(sorted_table, np.nan)
    return sorted_table
