"""``marl evaluate``: greedy episodes of a run's policies."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from marl.counters import MAX_STEPS
from marl.launchers.command_line.options import ObjectText, Positional
from marl.launchers.console import describe_evaluation, read_options, require_not_negative, require_positive
from marl.launchers.environment_variables import use_fair_threads

if TYPE_CHECKING:  # help is shown without loading torch
    from marl.core import Communicator


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Options of ``marl evaluate``."""

    run: Positional[Path]
    """A run directory, or one checkpoint in it."""
    episodes: int = 100
    """Episodes to play."""
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
    """Plays greedy episodes on the unmodified environment."""
    options: EvaluateOptions = read_options(EvaluateOptions, argv, program="marl evaluate")
    require_positive(episodes=options.episodes, num_envs=options.num_envs, max_steps=options.max_steps)
    require_not_negative(seed=options.seed)
    from marl.acting.evaluation import evaluate as play_episodes
    from marl.launchers.mpi.ranks import run_on_ranks
    from marl.launchers.run.trained_run import load_run
    from marl.loggers.journal import plain_number

    def run(communicator: Communicator) -> int:
        use_fair_threads()
        trained = load_run(options.run, env_kwargs=options.env_kwargs)
        result = play_episodes(
            trained.policies,
            trained.spec,
            trained.environment,
            episodes=options.episodes,
            num_envs=options.num_envs,
            seed=options.seed,
            communicator=communicator,
            sharing=trained.settings.algorithm.sharing,
            max_steps=options.max_steps,
        )
        if communicator.rank == 0:
            summary = {**result.summary(), "env_steps": trained.env_steps}
            if options.json:
                print(json.dumps({key: plain_number(value) for key, value in summary.items()}))
            else:
                print(describe_evaluation(summary))
        return 0

    return run_on_ranks(run)
