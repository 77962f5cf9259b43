"""The self-contained HTML page of a tournament's results."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from marl.files import write_atomically
from marl.launchers.tournament.report import in_leaderboard_order
from marl.launchers.tournament.results import Standing, TournamentResults
from marl.types import Floats

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #222 }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid #ddd }
th { border-bottom: 2px solid #888 } th.left, td.left { text-align: left }
td.cell { text-align: center; border: 1px solid #fff } p.note { color: #555 } .wide { overflow-x: auto }
""".strip()


def write_html(path: Path, results: TournamentResults, summary: Mapping[str, Any]) -> None:
    """Writes a page that needs no other file: leaderboard, scores of pairs, seats, forfeits and the settings.

    Args:
        path: an .html.
        results: of the tournament.
        summary: the content of ``results.json``.
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
        "<h2>Mean return of the row's side where the column sits on another</h2>",
        _returns(results),
        "<h2>Seats</h2>",
        _seats(results),
        "<h2>Forfeits and step limits</h2>",
        _forfeits(results),
    ]
    if summary["sprt"]:
        parts += ["<h2>Sequential tests</h2>", _tests(summary["sprt"])]
    parts += ["<h2>Players</h2>", _players(summary["players"]), "</body></html>\n"]
    write_atomically(path, "\n".join(parts).encode())


def _headline(results: TournamentResults, summary: Mapping[str, Any]) -> str:
    text = (
        f"{results.games} games ({results.distinct_games} of them different), {summary['action_selection']} policies. "
    )
    if results.cooperative:
        return text + "The sides win and lose together: players are ranked by mean return, and Elo says nothing."
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


def _leaderboard(results: TournamentResults) -> str:
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
        numbers = [f"{100 * one.score:.1f} %", one.wins, one.draws, one.losses, one.games, f"{one.mean_return:.3f}"]
        numbers += [f"{one.nash_share:.3f}", f"{one.nash_rating:.3f}", f"{one.alpha_rank:.3f}"]
        if one.openskill is not None:
            numbers.append(f"{one.openskill['ordinal']:.2f}")
        cells += [f"<td>{number}</td>" for number in numbers]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    head = "".join(f"<th{' class=left' if index == 0 else ''}>{text}</th>" for index, text in enumerate(heads))
    return f"<div class=wide><table><tr>{head}</tr>\n" + "\n".join(rows) + "</table></div>"


def _returns(results: TournamentResults) -> str:
    names = [one.player for one in results.standings]
    rows = in_leaderboard_order(results, results.mean_returns).tolist()
    cells = [["" if math.isnan(value) else f"{value:.3f}" for value in row] for row in rows]
    return _table(["", *names], [[name, *row] for name, row in zip(names, cells, strict=True)])


def _bar(one: Standing, low: float, span: float) -> str:
    x1, x2, x = (4 + 152 * (value - low) / span for value in (*one.interval, one.elo))
    return (
        f"<svg width=160 height=14><line x1={x1:.1f} x2={x2:.1f} y1=7 y2=7 stroke='#4477aa' stroke-width=3 />"
        f"<circle cx={x:.1f} cy=7 r=4 fill='#223355' /></svg>"
    )


def _heat_map(results: TournamentResults, table: Floats, form: str) -> str:
    values = in_leaderboard_order(results, table)
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


def _seats(results: TournamentResults) -> str:
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


def _forfeits(results: TournamentResults) -> str:
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
    return _table(["matchup", "decision", "pairs", "LLR"], rows, left=2)


def _players(players: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        [name, str(about["source"]), str(about["checkpoint"]), json.dumps(about["env_steps"])]
        for name, about in players.items()
    ]
    return _table(["player", "source", "checkpoint", "environment steps"], rows, left=3)
