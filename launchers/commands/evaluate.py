"""``marl evaluate``: greedy episodes of a run's policies."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from marl.acting.evaluation import MAX_STEPS
from marl.acting.evaluation import evaluate as play_episodes
from marl.core import Communicator
from marl.launchers.console import describe_evaluation, read_options, require_positive
from marl.launchers.environment_variables import use_fair_threads
from marl.launchers.mpi.ranks import run_on_ranks
from marl.launchers.run.policy_sources import load_source
from marl.loggers.journal import plain_number


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Options of ``marl evaluate``."""

    run: Annotated[Path, tyro.conf.Positional]
    """A run directory, or one checkpoint in it; a league's snapshot LEAGUE@NAME, or its mixture LEAGUE@mixture."""
    episodes: int = 100
    """Episodes to play."""
    seed: int = 1
    """The seed of the episodes; training evaluates with its own seed."""
    num_envs: int = 32
    """Environments that are stepped at once."""
    max_steps: int = MAX_STEPS
    """An episode is cut there, if it has not ended by then."""
    env_kwargs: str | None = None
    """Arguments for the environment other than the run's, as a JSON object."""
    json: bool = False
    """Print one JSON object instead of a line."""


def evaluate(argv: list[str]) -> int:
    """Plays greedy episodes on the unmodified environment."""
    options: EvaluateOptions = read_options(EvaluateOptions, argv, program="marl evaluate")
    require_positive(episodes=options.episodes, num_envs=options.num_envs, max_steps=options.max_steps)

    def run(communicator: Communicator) -> int:
        use_fair_threads()
        trained = load_source(options.run, env_kwargs=options.env_kwargs)
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
