"""Options of ``marl tournament``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from marl.games.formats import Format
from marl.launchers.command_line.options import ObjectText, Positional, TeamsText
from marl.launchers.run.choices import ActionSelection


@dataclass(frozen=True, kw_only=True)
class TournamentOptions:
    """Options of ``marl tournament``."""

    env: Positional[str]
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
    teams: TeamsText | None = None
    """The team of every agent; those of one play together. By default agents whose names differ in a
    trailing number only, else those of equal spaces, else every agent is alone."""
    scoring: Literal["auto", "game", "duplicate"] = "auto"
    """Compare returns within a game, or in the same seat of the same deal; auto: the first where sides are alike. In
    games whose sides win and lose together auto ranks by mean return instead of Elo."""
    anchor: str | None = None
    """The player whose Elo is 0; the mean if not given."""
    boards: int = 64
    """Games that are played side by side."""
    env_kwargs: ObjectText | None = None
    """Arguments of the environment; those of the players' runs if not given."""
    wandb: Literal["disabled", "offline", "online"] = "disabled"
    """Send the leaderboard, the payoff table and ratings over training steps to W&B in the end."""
    wandb_project: str = "marl"
    """The W&B project."""
