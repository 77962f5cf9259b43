"""A tournament's results to look at: text, CSV, one self-contained page, one picture."""

from __future__ import annotations

import csv
import html
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from marl.files import reported_as_input_error, write_atomically
from marl.launchers.reports.wandb_upload import upload_rows
from marl.launchers.run.run_directory import RunDirectory
from marl.launchers.tournament.results import Results, Standing
from marl.loggers.wandb import WandbLogger
from marl.types import Floats


def table_text(results: Results) -> str:
    """The leaderboard in plain text."""
    width = max(6, *(len(standing.player) for standing in results.standings))
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


def write_csv(path: Path, results: Results) -> None:
    """The leaderboard, one player a line, best first."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns, rows = leaderboard(results)
    writer.writerow(columns)
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode())


def leaderboard(results: Results) -> tuple[list[str], list[list[str | float | None]]]:
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
    results: Results,
    summary: Mapping[str, Any],
    *,
    mode: Literal["offline", "online"],
    project: str,
) -> None:
    """Sends a tournament to W&B: leaderboard and payoff as tables, and ratings over environment steps of training.

    Each run or league has a curve of its own, ``elo/NAME`` with ``elo_low`` and ``elo_high``. Where W&B is not
    available that is said in one line, and nothing is lost: the folder has it all.

    Args:
        directory: the tournament's.
        results: of the tournament.
        summary: what ``results.json`` holds.
        mode: ``offline`` writes into the directory, for ``wandb sync``.
        project: the W&B project.
    """
    names = [one.player for one in results.standings]
    rates = _in_order(results, results.win_rates).tolist()
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


def rating_rows(results: Results, players: Mapping[str, Mapping[str, Any]]) -> list[dict[str, float]]:
    """Ratings over training, ascending: a row for each number of environment steps at which somebody was trained.

    Args:
        results: of the tournament.
        players: by name, with ``source`` and ``env_steps``, None for those that were not trained.
    """
    rows: dict[int, dict[str, float]] = {}
    for one in results.standings:
        about = players[one.player]
        if about["env_steps"] is None:
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


def write_picture(path: Path, results: Results, *, title: str, steps: Mapping[str, int | None]) -> None:
    """Ratings with their intervals, who beats whom, and ratings over training steps where several are known.

    Args:
        path: a .png.
        results: of the tournament.
        title: above the picture.
        steps: environment steps that each player was trained for, None for those that were not.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    trained = [(step, one) for one in results.standings if (step := steps.get(one.player)) is not None]
    trained.sort(key=lambda pair: pair[0])
    curve = len({step for step, _ in trained}) > 1
    names = [one.player for one in results.standings]
    size = max(3.0, 0.45 * len(names) + 1.5)
    figure = Figure(figsize=(4.5 + size + 1.0 + (4.5 if curve else 0.0), size), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 3 if curve else 2, width_ratios=[4.5, size + 1.0, *([4.5] if curve else [])])
    figure.suptitle(title)
    rows = np.arange(len(names))
    for row, one in zip(rows, results.standings, strict=True):
        axes[0].plot(one.interval, (row, row), color="tab:blue", linewidth=2)
        axes[0].plot(one.elo, row, "o", color="tab:blue")
    axes[0].set_yticks(rows, names)
    axes[0].invert_yaxis()
    axes[0].set_xlabel("Elo, 95 %")
    axes[0].grid(axis="x", alpha=0.3)
    rates = _in_order(results, results.win_rates)
    shown = axes[1].imshow(rates, vmin=0.0, vmax=1.0, cmap="RdYlGn")
    axes[1].set_xticks(rows, names, rotation=45, ha="right")
    axes[1].set_yticks(rows, names)
    axes[1].set_title("score of the row against the column", fontsize="medium")
    if len(names) <= 16:
        for row in rows:
            for column in rows:
                if row != column and not math.isnan(rates[row, column]):
                    text = f"{100 * rates[row, column]:.0f}"
                    axes[1].text(column, row, text, ha="center", va="center", fontsize="small")
    figure.colorbar(shown, ax=axes[1], shrink=0.8)
    if curve:
        elo = np.array([one.elo for _, one in trained])
        errors = np.abs(np.array([one.interval for _, one in trained]).T - elo)
        axes[2].errorbar([step for step, _ in trained], elo, yerr=errors, fmt="o", capsize=3)
        axes[2].set_xlabel("environment steps of training")
        axes[2].set_ylabel("Elo")
        axes[2].grid(alpha=0.3)
    with reported_as_input_error(f"write {path}"):
        figure.savefig(path, dpi=110)


def _in_order(results: Results, table: Floats) -> Floats:
    """A table of players in the order of the leaderboard; its diagonal says nothing."""
    order = [results.players.index(one.player) for one in results.standings]
    sorted_table: Floats = table[np.ix_(order, order)].copy()
    np.fill_diagonal(sorted_table, np.nan)
    return sorted_table


_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #222 }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid #ddd }
th { border-bottom: 2px solid #888 } th.left, td.left { text-align: left }
td.cell { text-align: center; border: 1px solid #fff } p.note { color: #555 } .wide { overflow-x: auto }
""".strip()


def write_html(path: Path, results: Results, summary: Mapping[str, Any]) -> None:
    """One page that needs nothing else: leaderboard, who beat whom, seats, forfeits and the settings.

    Args:
        path: an .html.
        results: of the tournament.
        summary: what ``results.json`` holds.
    """
    title = html.escape(f"{summary['env']}: {summary['format']} of {len(results.players)} players")
    parts = [
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{title}</title>",
        f"<style>{_STYLE}</style></head><body><h1>{title}</h1>",
        f"<p>{html.escape(_headline(results, summary))}</p>",
        "<h2>Leaderboard</h2>",
        _leaderboard(results),
        "<h2>Score of the row against the column, in per cent</h2>",
        _heat_map(results, results.win_rates, "{:.0f}"),
        "<h2>Probability that the row is stronger than the column, in per cent</h2>",
        _heat_map(results, results.superiority, "{:.1f}"),
        "<h2>Seats</h2>",
        _seats(results),
        "<h2>Forfeits and step limits</h2>",
        _forfeits(results),
    ]
    if summary["sprt"]:
        parts += ["<h2>Sequential tests</h2>", _tests(summary["sprt"])]
    parts += ["<h2>Players</h2>", _players(summary["players"]), "</body></html>\n"]
    write_atomically(path, "\n".join(parts).encode())


def _headline(results: Results, summary: Mapping[str, Any]) -> str:
    text = f"{results.games} games ({results.distinct_games} of them different), {summary['choosing']} policies. "
    if results.seat_advantage is not None and results.seat_interval is not None:
        low, high = results.seat_interval
        text += f"The first seat is worth {results.seat_advantage:.0f} Elo (95 %: {low:.0f} to {high:.0f}). "
    elif summary["scoring"] == "duplicate":
        text += "The sides are unlike each other: players are compared in the same seat of the same deal. "
    return text + "Intervals are 95 %; ratings are maximum-likelihood Elo with draws."


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """Texts as a table; the first ``left`` columns are aligned to the left."""

    def line(tag: str, cells: Sequence[str]) -> str:
        marked = [
            f"<{tag}{' class=left' if index < left else ''}>{html.escape(cell)}</{tag}>"
            for index, cell in enumerate(cells)
        ]
        return f"<tr>{''.join(marked)}</tr>"

    body = "\n".join(line("td", row) for row in rows)
    return f"<div class=wide><table>{line('th', head)}\n{body}</table></div>"


def _leaderboard(results: Results) -> str:
    ends = [limit for one in results.standings for limit in one.interval]
    low, span = min(ends), max(max(ends) - min(ends), 1e-9)
    skilled = results.standings[0].openskill is not None
    heads = ["player", "Elo", "95 %", "", "score", "won", "drawn", "lost", "games", "mean return"]
    heads += ["Nash share", "Nash rating", "alpha-rank", *(["openskill"] if skilled else [])]
    rows = []
    for one in results.standings:
        cells = [f"<td class=left>{html.escape(one.player)}</td>"]
        cells += [f"<td>{one.elo:.1f}</td><td>{one.interval[0]:.1f} to {one.interval[1]:.1f}</td>"]
        cells += [f"<td>{_bar(one, low, span)}</td>"]
        figures = [f"{100 * one.score:.1f} %", one.wins, one.draws, one.losses, one.games, f"{one.mean_return:.3f}"]
        figures += [f"{one.nash_share:.3f}", f"{one.nash_rating:.3f}", f"{one.alpha_rank:.3f}"]
        if one.openskill is not None:
            figures.append(f"{one.openskill['ordinal']:.2f}")
        cells += [f"<td>{figure}</td>" for figure in figures]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    head = "".join(f"<th{' class=left' if index == 0 else ''}>{text}</th>" for index, text in enumerate(heads))
    return f"<div class=wide><table><tr>{head}</tr>\n" + "\n".join(rows) + "</table></div>"


def _bar(one: Standing, low: float, span: float) -> str:
    x1, x2, x = (4 + 152 * (value - low) / span for value in (*one.interval, one.elo))
    return (
        f"<svg width=160 height=14><line x1={x1:.1f} x2={x2:.1f} y1=7 y2=7 stroke='#4477aa' stroke-width=3 />"
        f"<circle cx={x:.1f} cy=7 r=4 fill='#223355' /></svg>"
    )


def _heat_map(results: Results, table: Floats, form: str) -> str:
    values = _in_order(results, table)
    names = [html.escape(one.player) for one in results.standings]
    rows = [f"<tr><th></th>{''.join(f'<th>{name}</th>' for name in names)}</tr>"]
    for name, row in zip(names, values.tolist(), strict=True):
        cells = []
        for value in row:
            if math.isnan(value):
                cells.append("<td class=cell></td>")
                continue
            # From red by yellow to green.
            colour = f"hsl({120 * value:.0f} 65% 75%)"
            cells.append(f"<td class=cell style='background:{colour}'>{form.format(100 * value)}</td>")
        rows.append(f"<tr><td class=left>{name}</td>{''.join(cells)}</tr>")
    return f"<div class=wide><table>{''.join(rows)}</table></div>"


def _seats(results: Results) -> str:
    sides = list(results.standings[0].seats)
    head = ["player", *(text for side in sides for text in (f"games as {side}", f"score as {side}"))]
    rows = []
    for one in results.standings:
        cells = [one.player]
        for side in sides:
            score = one.seat_scores[side]
            cells += [str(one.seats[side]), "" if score is None else f"{100 * score:.1f} %"]
        rows.append(cells)
    return _table(head, rows)


def _forfeits(results: Results) -> str:
    note = "<p class=note>A forfeit counts as a loss, a game that was stopped at the step limit as a draw.</p>"
    rows = [
        [one.player, *(str(one.forfeits[kind]) for kind in ("crash", "timeout", "illegal")), str(one.step_limits)]
        for one in results.standings
    ]
    return note + _table(["player", "crashes", "timeouts", "illegal moves", "games stopped"], rows)


def _tests(tests: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [" - ".join(test["players"]), str(test["decision"] or "undecided"), str(test["used"]), f"{test['llr']:.2f}"]
        for test in tests
    ]
    return _table(["meeting", "decision", "pairs", "LLR"], rows, left=2)


def _players(players: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        [name, str(about["source"]), str(about["checkpoint"]), json.dumps(about["env_steps"])]
        for name, about in players.items()
    ]
    return _table(["player", "source", "checkpoint", "environment steps"], rows, left=3)
