"""``marl bench NAME``: figures of speed, each with a reference measured in the same run.

One JSON object a line: ``name, value, unit, reference, ratio``. A figure is the median over rounds in which value
and reference take turns, so that a machine whose speed drifts does not favour either.
"""

from __future__ import annotations

import importlib
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch

from launchers.launch import launch, use_fair_threads
from launchers.mpi import run_on_ranks, world_size_from_environment
from launchers.text import nearest, read_options, require_positive
from marl.core import Communicator
from marl.errors import InputError

Figure = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What ``marl bench`` can be told."""

    ranks: int | None = None
    """Start that many MPI ranks on this machine."""
    env: str = "mpe2.simple_spread_v3"
    """For rollout and train: the environment."""
    num_envs: int = 128
    """For rollout and train: environment copies, over all ranks."""
    rounds: int = 5
    """How often value and reference take turns."""
    seconds: float = 2.0
    """About how long each turn takes."""


def figure(name: str, values: list[float], references: list[float], unit: str) -> Figure:
    """Medians of what was measured in turns, and the median of their ratios."""
    ratios = [value / reference for value, reference in zip(values, references, strict=True)]
    return {
        "name": name,
        "value": statistics.median(values),
        "unit": unit,
        "reference": statistics.median(references),
        "ratio": statistics.median(ratios),
    }


def raw_rate(env: str, seconds: float) -> float:
    """Environment steps a second of one unmodified copy: ``env.step`` with ready-made random actions, and resets."""
    from envs.factory import make_constructor

    environment = make_constructor(env)()
    if not hasattr(environment, "parallel_env") and not hasattr(environment, "possible_agents"):
        raise InputError(f"{env} is not a PettingZoo environment")
    agents = environment.possible_agents
    environment.reset(seed=0)
    generator = np.random.default_rng(0)
    choices = [
        {agent: int(generator.integers(environment.action_space(agent).n)) for agent in agents} for _ in range(1000)
    ]
    steps, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        for actions in choices[:250]:
            environment.step(actions)
            if not environment.agents:
                environment.reset()
        steps += 250
    rate = steps / (time.perf_counter() - start)
    environment.close()
    return rate


def rollout(options: Options, communicator: Communicator) -> Iterator[Figure]:
    """Acting with 64x64 networks on unmodified copies, against ``env.step`` alone."""
    experiment = _experiment(options, communicator, epochs=1)
    experiment.loop.begin()
    values, references = [], []
    for _ in range(options.rounds):
        references.append(raw_rate(options.env, options.seconds) * communicator.size)
        steps, start = 0, time.perf_counter()
        while time.perf_counter() - start < options.seconds:
            experiment.loop.step()
            steps += options.num_envs
            if experiment.dataset.ready():
                experiment.dataset.sample()
        values.append(steps / (time.perf_counter() - start))
    experiment.close()
    yield figure(f"rollout/{options.env}", values, references, "env steps/s")


def train(options: Options, communicator: Communicator) -> Iterator[Figure]:
    """Training MAPPO (64x64 networks, 4 epochs), against ``env.step`` alone on one core, times the ranks."""
    experiment = _experiment(options, communicator, epochs=4)
    experiment.loop.begin()
    values, references = [], []
    for turn in range(options.rounds + 1):
        # Rank 0 measures the reference while the others wait in the collective that follows.
        reference = torch.zeros(1, dtype=torch.float64)
        if communicator.rank == 0:
            reference += raw_rate(options.env, options.seconds) * communicator.size
        communicator.all_reduce(reference)
        steps, start = 0, time.perf_counter()
        updates = 0
        goal = max(1, round(options.seconds * float(reference) / (25 * options.num_envs)))
        while updates < goal:
            experiment.loop.step()
            steps += options.num_envs
            while experiment.dataset.ready():
                experiment.learner.step()
                updates += 1
        if turn:  # the first turn warms up
            values.append(steps / (time.perf_counter() - start))
            references.append(float(reference))
    experiment.close()
    yield figure(f"train/mappo/{options.env}/{communicator.size}-ranks", values, references, "env steps/s")


def _experiment(options: Options, communicator: Communicator, *, epochs: int) -> Any:
    from algorithms.mappo import MAPPO, MAPPOConfig
    from envs.factory import make_factory
    from marl.experiment import Experiment, ExperimentConfig

    config = ExperimentConfig(
        builder=MAPPO(config=MAPPOConfig(epochs=epochs)),
        environment=make_factory(options.env),
        num_envs=options.num_envs,
    )
    return Experiment(config, communicator)


def allreduce(options: Options, communicator: Communicator) -> Iterator[Figure]:
    """The fused all-reduce, against bare mpi4py on an equal buffer, and one call a parameter."""
    yield from importlib.import_module("launchers.bench_allreduce").run(communicator, repeats=60 * options.rounds)


def replay(options: Options, communicator: Communicator) -> Iterator[Figure]:
    """Inserting into replay and sampling from it, against bare copies of the same bytes."""
    yield from importlib.import_module("launchers.bench_replay").run()


BENCHMARKS: Final[dict[str, Callable[[Options, Communicator], Iterator[Figure]]]] = {
    "rollout": rollout,
    "train": train,
    "allreduce": allreduce,
    "replay": replay,
}
_RANKS: Final = {"train": 2, "allreduce": 2}


def bench(words: list[str]) -> int:
    """Runs one benchmark and prints its figures; see ``main.main`` for the exit codes."""
    if not words or words[0] in ("-h", "--help"):
        print("usage: marl bench NAME [OPTIONS]\n")
        for name, benchmark in BENCHMARKS.items():
            print(f"  {name:<10} {(benchmark.__doc__ or '').splitlines()[0]}")
        return 0
    name, rest = words[0], words[1:]
    if name not in BENCHMARKS:
        raise InputError(f"there is no benchmark {name!r}{nearest(name, BENCHMARKS)}")
    options: Options = read_options(Options, rest, program=f"marl bench {name}")
    require_positive(ranks=options.ranks, num_envs=options.num_envs, rounds=options.rounds)
    if world_size_from_environment() is None:
        ranks = _RANKS.get(name, 1) if options.ranks is None else options.ranks
        if ranks > 1:
            return launch(["bench", *words], ranks)

    def run(communicator: Communicator) -> int:
        use_fair_threads()
        for line in BENCHMARKS[name](options, communicator):
            if communicator.rank == 0:
                print(json.dumps(line), flush=True)
        return 0

    return run_on_ranks(run)
