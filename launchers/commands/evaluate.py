"""``marl evaluate``: episodes of a run's policies."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from marl.acting.modes import EvaluationPolicy
from marl.counters import MAX_STEPS
from marl.launchers.command_line.options import ObjectText, Positional
from marl.launchers.console import (
    describe_evaluation,
    print_progress,
    read_options,
    require_not_negative,
    require_positive,
)
from marl.launchers.environment_variables import use_fair_threads

if TYPE_CHECKING:  # help is shown without loading torch
    from marl.core import Communicator


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Options of ``marl evaluate``."""

    run: Positional[Path]
    """A run directory, or one checkpoint in it; a league's snapshot LEAGUE@NAME, or its mixture LEAGUE@mixture."""
    episodes: int = 100
    """Episodes to play in each mode, and as many against random moves where sides oppose each other."""
    evaluation_policy: EvaluationPolicy = "both"
    """Play actions as they were trained to be drawn (sampled), the best ones (greedy), or both where they differ."""
    seed: int = 1
    """The seed of the episodes; training evaluates with its own seed."""
    num_envs: int = 32
    """Environments that are stepped at once."""
    max_steps: int = MAX_STEPS
    """An episode is cut there, if it has not ended by then."""
    env_kwargs: ObjectText | None = None
    """Arguments for the environment other than the run's."""
    json: bool = False
    """Print one JSON object instead of a line."""


def evaluate(argv: list[str]) -> int:
    """Plays episodes on the unmodified environment."""
    options: EvaluateOptions = read_options(EvaluateOptions, argv, program="marl evaluate")
    require_positive(episodes=options.episodes, num_envs=options.num_envs, max_steps=options.max_steps)
    require_not_negative(seed=options.seed)
    from marl.acting.full_evaluation import evaluate_modes
    from marl.acting.modes import modes_to_play
    from marl.launchers.mpi.ranks import run_on_ranks
    from marl.launchers.run.policy_sources import load_source
    from marl.loggers.journal import plain_number
    from marl.progress import unwatched

    def run(communicator: Communicator) -> int:
        use_fair_threads()
        trained = load_source(options.run, env_kwargs=options.env_kwargs)
        modes = modes_to_play(options.evaluation_policy, stochastic="sampled" in trained.modes)
        result = evaluate_modes(
            {mode: trained.modes[mode] for mode in modes},
            trained.spec,
            trained.environment,
            teams=trained.teams,
            episodes=options.episodes,
            num_envs=options.num_envs,
            seed=options.seed,
            communicator=communicator,
            sharing=trained.settings.algorithm.sharing,
            max_steps=options.max_steps,
            progress=print_progress() if communicator.rank == 0 else unwatched,
        )
        if communicator.rank == 0:
            summary = {**result.summary(), "env_steps": trained.env_steps}
            if options.json:
                print(json.dumps({key: plain_number(value) for key, value in summary.items()}))
            else:
                print(describe_evaluation(summary, result.mode))
        return 0

    return run_on_ranks(run)
