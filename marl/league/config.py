"""The configuration of a league."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from marl.experiments.config import ExperimentConfig
from marl.league.league import Role


@dataclass(frozen=True, slots=True, kw_only=True)
class LeagueConfig:
    """A league: an experiment, and the players that learn in it."""

    experiment: ExperimentConfig
    """The experiment of each learning player. Steps are those of all players together, environments those of each."""
    learners: Mapping[str, Role]
    """Roles of the learning players, by name; the first one is the main player, which is evaluated."""
    teams: Mapping[str, str] | None = None
    """The team of each agent; see ``marl.games.sides.Sides``."""
    swap_steps: int | None = None
    """Environment steps of the learner for which opponents stay (but for whole episodes); None for new opponents every
    episode."""
    memory: int = 1000
    """Recent games between two players that matchmaking reads."""
    measure_games: int = 0
    """Games that each new snapshot plays against every earlier one, half from each seat; for two sides."""
    directory: Path | None = None
    """Directory of snapshots; None to keep them in memory and in checkpoints."""
