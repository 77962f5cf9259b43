"""``marl tournament``: ratings with error bars, over any number of ranks and interruptions."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from marl.core import Communicator
from marl.distributed.broadcast import from_root
from marl.errors import InputError
from marl.files import render_json, write_atomically
from marl.games.game import PlayedGame
from marl.launchers.environment_variables import world_size_from_environment
from marl.launchers.jobs.job import launch
from marl.launchers.mpi.ranks import run_on_ranks
from marl.launchers.reports.drawing import is_drawn
from marl.launchers.run.config_comparison import refuse_other_config
from marl.launchers.run.run_directory import RunDirectory, new_run_path
from marl.launchers.stopping import STOPPED
from marl.launchers.tournament.checks import check_options
from marl.launchers.tournament.contestants import Entry
from marl.launchers.tournament.cooperation import is_cooperative
from marl.launchers.tournament.games_file import GamesFile
from marl.launchers.tournament.options import TournamentOptions
from marl.launchers.tournament.results import results_json, tally
from marl.launchers.tournament.runner import TournamentRunner


def play_tournament(options: TournamentOptions, argv: list[str]) -> int:
    """Plays a tournament; see ``main.main`` for the exit codes."""
    entries = check_options(options)
    if world_size_from_environment() is None and options.ranks is not None:
        return launch(["tournament", *argv], options.ranks)
    return run_on_ranks(lambda communicator: _run(options, entries, communicator))


def _run(options: TournamentOptions, entries: Sequence[Entry], communicator: Communicator) -> int:
    if options.ranks not in (None, communicator.size):
        raise InputError(f"--ranks {options.ranks} under an mpirun that started {communicator.size}; leave it out")
    # Which numbers a product of matrices gives may depend on how many threads share it.
    torch.set_num_threads(1)
    started = time.monotonic()
    saved = _saved(options, communicator)
    runner = TournamentRunner.prepare(options, entries, saved)
    with contextlib.ExitStack() as held:
        held.callback(runner.arena.close)
        path = Path(from_root(communicator, lambda: str(_open(options, runner.config, saved, held))))
        try:
            games = runner.run(communicator, GamesFile(path / "games.jsonl"))
        except KeyboardInterrupt:
            if communicator.rank == 0:
                print(f"marl: stopped; the same command goes on, with --out {path}", file=sys.stderr)
            return STOPPED
        if communicator.rank == 0:
            _conclude(path, runner, games, time.monotonic() - started)
    return 0


def _saved(options: TournamentOptions, communicator: Communicator) -> dict[str, Any] | None:
    """The configuration of the tournament in ``--out``, if there is one."""
    if options.out is None:
        return None

    def read() -> dict[str, Any] | None:
        assert options.out is not None
        if not (options.out / "config.json").exists():
            if options.resume:
                raise InputError(f"there is no tournament in {options.out} to resume")
            return None
        config = RunDirectory.open(options.out).config
        if config.get("kind") != "tournament":
            raise InputError(f"{options.out} holds a run, not a tournament; choose another --out")
        return config

    return from_root(communicator, read)


def _open(
    options: TournamentOptions, config: dict[str, Any], saved: dict[str, Any] | None, held: contextlib.ExitStack
) -> Path:
    """Begins the tournament, or goes on with the one that is there, and holds its folder."""
    if saved is None:
        path = options.out or held.enter_context(new_run_path("tournament", options.env, options.seed))
        held.enter_context(RunDirectory.claimed(path)).begin(config)
        return path
    assert options.out is not None
    run = RunDirectory.open(options.out)
    held.enter_context(run.locked())
    refuse_other_config(run, config)
    return run.path


def _conclude(path: Path, runner: TournamentRunner, games: list[PlayedGame], seconds: float) -> None:
    """Writes and prints the results."""
    from marl.launchers.tournament.page import write_html
    from marl.launchers.tournament.picture import write_picture
    from marl.launchers.tournament.report import log_to_wandb, table_text, write_csv

    options = runner.options
    results = tally(
        games,
        runner.names,
        runner.sides.names,
        runner.scoring,
        anchor=options.anchor,
        cooperative=options.scoring == "auto" and is_cooperative(games),
        seed=options.seed,
    )
    tests = runner.tests({game.index: game for game in games})
    steps = {one.entry.name: one.env_steps for one in runner.contestants}
    summary = {
        "env": options.env,
        "format": options.format,
        "scoring": runner.scoring,
        "action_selection": options.action_selection,
        "sides": runner.config["sides"],
        "players": {name: {**about, "env_steps": steps[name]} for name, about in runner.config["players"].items()},
        "sprt": list(tests.values()),
        **results_json(results),
    }
    write_atomically(path / "results.json", render_json(summary))
    write_csv(path / "results.csv", results)
    picture = path / "report.png"
    drawn = is_drawn(picture.name, lambda: write_picture(picture, results, title=options.env, steps=steps))
    write_html(path / "report.html", results, summary)
    print(table_text(results))
    if options.wandb != "disabled":
        log_to_wandb(RunDirectory.open(path), results, summary, mode=options.wandb, project=options.wandb_project)
    for test in tests.values():
        decision = test["decision"] or "undecided"
        print(f"SPRT {' - '.join(test['players'])}: {decision} after {test['used']} pairs (LLR {test['llr']:.2f})")
    if tests and results.cooperative:
        print("SPRT compares who wins within a game, which nobody does in a cooperative one")
    if results.distinct_games < results.games / 2 and options.action_selection == "greedy":
        print(
            f"only {results.distinct_games} of {results.games} games differ, so the intervals promise too much; "
            "--random-opening-moves 4 or --action-selection sampled gives different games"
        )
    files = ", ".join(["results.json", "report.html", *[picture.name] * drawn, "games.jsonl"])
    print(f"{results.games} games, {seconds:.1f} s; saved in {path}: {files}")
