"""Options."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from marl.errors import InputError
from marl.games.game import GameRules
from marl.games.pairings import Format
from marl.launchers.console import require_positive
from marl.launchers.run.settings import read_env_kwargs
from marl.launchers.run.sources import ActionSelection
from marl.launchers.tournament.contestants import Entry, read_entries
from marl.ratings.sprt import SPRTConfig


@dataclass(frozen=True, kw_only=True)
class Options:
    """What ``marl tournament`` can be told."""

    env: Annotated[str, tyro.conf.Positional]
    """The game: as for training."""
    players: tuple[str, ...] = ()
    """NAME=SOURCE, or SOURCE: a run directory, a snapshot or checkpoint, ``random``, or your class ``module:Class``."""
    games: int = 100
    """Games of each meeting, in each round."""
    format: Format = "round-robin"
    """All meet all; the first player meets all others; or rounds among players with similar scores."""
    rounds: int | None = None
    """Rounds of a Swiss tournament; as many as its players need if not given."""
    seed: int = 0
    """From which all games follow."""
    ranks: int | None = None
    """Start that many MPI ranks on this machine."""
    out: Path | None = None
    """The tournament's folder; a new one under runs/ if not given. The same command on it goes on where it stopped."""
    resume: bool = False
    """Insist that there is a tournament to go on with."""
    sprt: tuple[float, float] | None = None
    """Stop a meeting of two as soon as it is decided which of these Elo differences holds (errors of 5 % each)."""
    choosing: ActionSelection = "greedy"
    """Whether trained policies take their best action, or draw one as in training."""
    opening: int = 0
    """Random moves at the beginning, equal in both games of a pair, so that greedy players' games differ."""
    max_steps: int = 2000
    """A game that has not ended by then is a draw."""
    move_seconds: float = 30.0
    """A player that takes longer for a decision forfeits; 0 for no limit."""
    teams: tuple[str, ...] = ()
    """Sides as NAME=AGENT,AGENT; by default agents whose names differ in their numbers only, or each agent."""
    scoring: Literal["auto", "game", "duplicate"] = "auto"
    """Who had more in a game, or in the same seat of the same deal; auto: the first where all sides are alike."""
    anchor: str | None = None
    """The player whose Elo is 0; the mean if not given."""
    boards: int = 64
    """Games that are played side by side."""
    env_kwargs: str | None = None
    """Arguments of the environment, as a JSON object; those of the players' runs if not given."""
    wandb: Literal["disabled", "offline", "online"] = "disabled"
    """Whether to send the leaderboard, the payoff table and ratings over training steps to W&B in the end."""
    wandb_project: str = "marl"
    """The W&B project."""


def _check(options: Options) -> list[Entry]:
    require_positive(games=options.games, rounds=options.rounds, boards=options.boards, ranks=options.ranks)
    if options.seed < 0:
        raise InputError(f"--seed cannot be negative, got {options.seed}")
    if options.rounds is not None and options.format != "swiss":
        raise InputError("--rounds is for --format swiss")
    if options.env_kwargs is not None:
        read_env_kwargs(options.env_kwargs)
    if options.sprt is not None:
        SPRTConfig(elo0=options.sprt[0], elo1=options.sprt[1])
        if options.format == "swiss":
            raise InputError("--sprt ends meetings early, which a Swiss tournament cannot do; leave out one of them")
    _rules(options)
    entries = read_entries(options.players)
    if len(entries) < 2:
        raise InputError("a tournament needs two players or more: --players a=RUN b=RUN random")
    if options.anchor is not None and options.anchor not in [entry.name for entry in entries]:
        raise InputError(f"--anchor {options.anchor} is no player; there are {', '.join(e.name for e in entries)}")
    if options.resume and options.out is None:
        raise InputError("--resume needs --out: which tournament?")
    return entries


def _rules(options: Options) -> GameRules:
    return GameRules(
        seed=options.seed,
        max_steps=options.max_steps,
        move_seconds=options.move_seconds,
        opening=options.opening,
    )
