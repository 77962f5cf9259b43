"""Options of ``marl tournament``, and their check."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from marl.errors import InputError
from marl.games.game import GameRules
from marl.games.pairings import Format
from marl.games.sides import read_teams
from marl.launchers.console import require_positive
from marl.launchers.run.policy_sources import ActionSelection
from marl.launchers.run.settings import read_env_kwargs
from marl.launchers.tournament.contestants import Entry, read_entries
from marl.ratings.sprt import SPRTConfig


@dataclass(frozen=True, kw_only=True)
class TournamentOptions:
    """Options of ``marl tournament``."""

    env: Annotated[str, tyro.conf.Positional]
    """The game: as for training."""
    players: tuple[str, ...] = ()
    """NAME=SOURCE, or SOURCE: a run directory, a snapshot or checkpoint, ``random``, or your class ``module:Class``."""
    games: int = 100
    """Games of each matchup, in each round."""
    format: Format = "round-robin"
    """All meet all; the first player meets all others; or rounds among players with similar scores."""
    rounds: int | None = None
    """Rounds of a Swiss tournament; as many as its players need if not given."""
    seed: int = 0
    """The seed of all games."""
    ranks: int | None = None
    """Start that many MPI ranks on this machine."""
    out: Path | None = None
    """The tournament's folder; a new one under runs/ if not given. The same command on it goes on where it stopped."""
    resume: bool = False
    """Insist that there is a tournament to go on with."""
    sprt: tuple[float, float] | None = None
    """Stop a matchup of two as soon as it is decided which of these Elo differences holds (errors of 5 % each)."""
    action_selection: ActionSelection = "greedy"
    """Let trained policies take their best action, or draw one as in training."""
    random_opening_moves: int = 0
    """Random moves at the beginning, equal in both games of a pair, so that greedy players' games differ."""
    max_steps: int = 2000
    """A game that has not ended by then is a draw."""
    move_seconds: float = 30.0
    """A player that takes longer for a decision forfeits; 0 for no limit."""
    teams: str | None = None
    """Which agents play together, as a JSON object from agent to team. By default agents whose names differ in a
    trailing number only, else those of equal spaces, else every agent is alone."""
    scoring: Literal["auto", "game", "duplicate"] = "auto"
    """Compare returns within a game, or in the same seat of the same deal; auto: the first where sides are alike. In
    games whose sides win and lose together auto ranks by mean return instead of Elo."""
    anchor: str | None = None
    """The player whose Elo is 0; the mean if not given."""
    boards: int = 64
    """Games that are played side by side."""
    env_kwargs: str | None = None
    """Arguments of the environment, as a JSON object; those of the players' runs if not given."""
    wandb: Literal["disabled", "offline", "online"] = "disabled"
    """Send the leaderboard, the payoff table and ratings over training steps to W&B in the end."""
    wandb_project: str = "marl"
    """The W&B project."""


def check_options(options: TournamentOptions) -> list[Entry]:
    """Checks the options that need no environment, and returns the players; raises InputError."""
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
            raise InputError("--sprt ends matchups early, which a Swiss tournament cannot do; leave out one of them")
    game_rules(options)
    read_teams(options.teams)
    entries = read_entries(options.players)
    if len(entries) < 2:
        raise InputError("a tournament needs two players or more: --players a=RUN b=RUN random")
    if options.anchor is not None and options.anchor not in [entry.name for entry in entries]:
        raise InputError(f"--anchor {options.anchor} is no player; there are {', '.join(e.name for e in entries)}")
    if options.resume and options.out is None:
        raise InputError("--resume needs --out: which tournament?")
    return entries


def game_rules(options: TournamentOptions) -> GameRules:
    """The rules of all games."""
    return GameRules(
        seed=options.seed,
        max_steps=options.max_steps,
        move_seconds=options.move_seconds,
        random_opening_moves=options.random_opening_moves,
    )
