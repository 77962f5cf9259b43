"""``marl bench NAME``: measurements of speed, each with a reference from the same run.

One JSON object a line: ``name, value, unit, reference, ratio``. A value is the median over rounds in which value and
reference take turns, so that a machine whose speed drifts favours neither.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from marl.errors import InputError, nearest
from marl.launchers.bench.measurements import Measurement
from marl.launchers.console import read_options, require_positive
from marl.launchers.environment_variables import use_fair_threads, world_size_from_environment
from marl.launchers.jobs.job import launch
from marl.launchers.run.choices import Backend

if TYPE_CHECKING:  # help is shown without loading torch
    from marl.core import Communicator


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """Options of ``marl bench``."""

    ranks: int | None = None
    """Start that many MPI ranks on this machine."""
    env: str = "mpe2.simple_spread_v3"
    """For rollout and train: the environment."""
    num_envs: int = 128
    """For rollout and train: parallel environments, over all ranks."""
    backend: Backend = "pettingzoo"
    """For train and scaling: the unmodified environment, or its batched implementation on tensors."""
    activation: Literal["tanh", "relu"] = "tanh"
    """For train on the batched backend: after each hidden layer."""
    bfloat16: bool = False
    """For train on the batched backend: products between hidden layers in bfloat16."""
    rounds: int = 40
    """Turns of value and reference."""
    seconds: float = 0.25
    """About how long each turn takes; training takes one update, however long."""
    algorithm: str | None = None
    """For update: only this algorithm."""


def rollout(options: BenchOptions, communicator: Communicator) -> Iterator[Measurement]:
    """Acting with 64x64 networks on unmodified environments, against ``env.step`` alone."""
    yield from _training().rollout(options.env, options.num_envs, options.rounds, options.seconds, communicator)


def train(options: BenchOptions, communicator: Communicator) -> Iterator[Measurement]:
    """Training, against ``env.step`` alone on one core times the ranks; batched, against its matrix products."""
    if options.backend == "batched":
        yield from _training().train_batched(
            options.env,
            options.num_envs,
            options.rounds,
            communicator,
            activation=options.activation,
            bfloat16=options.bfloat16,
        )
    else:
        yield from _training().train(options.env, options.num_envs, options.rounds, options.seconds, communicator)


def scaling(options: BenchOptions, communicator: Communicator) -> Iterator[Measurement]:
    """Training on 2, 4, ... up to --ranks ranks (2 if not given), each against one rank on one core."""
    arguments = ["--env", options.env, "--num-envs", str(options.num_envs), "--backend", options.backend]
    yield from _training().scaling([*arguments, "--rounds", "10"], options.ranks or 2, max(1, options.rounds // 10))


def startup(options: BenchOptions, communicator: Communicator) -> Iterator[Measurement]:
    """Seconds until help is shown, and until the first update on two ranks, against Python's and torch's own start."""
    yield from importlib.import_module("marl.launchers.bench.startup").run(rounds=max(1, options.rounds // 8))


def _training() -> Any:
    return importlib.import_module("marl.launchers.bench.training")


def allreduce(options: BenchOptions, communicator: Communicator) -> Iterator[Measurement]:
    """The fused all-reduce, against bare mpi4py on an equal buffer, and one call a parameter."""
    yield from importlib.import_module("marl.launchers.bench.allreduce").run(communicator, repeats=10 * options.rounds)


def replay(options: BenchOptions, communicator: Communicator) -> Iterator[Measurement]:
    """Inserting into replay and sampling from it, against bare copies of the same bytes."""
    yield from importlib.import_module("marl.launchers.bench.replay").run()


def update(options: BenchOptions, communicator: Communicator) -> Iterator[Measurement]:
    """One update of each learner, against its matrix products alone."""
    algorithms = None if options.algorithm is None else (options.algorithm,)
    yield from importlib.import_module("marl.launchers.bench.update").run(
        communicator, algorithms, rounds=options.rounds, seconds=options.seconds
    )


BENCHMARKS: Final[dict[str, Callable[[BenchOptions, Communicator], Iterator[Measurement]]]] = {
    "rollout": rollout,
    "train": train,
    "scaling": scaling,
    "startup": startup,
    "allreduce": allreduce,
    "replay": replay,
    "update": update,
}
_STARTS_RANKS: Final = ("scaling", "startup")
"""Benchmarks that start ranks of their own."""
_SMALL_NETWORKS: Final = ("rollout", "train", "update")
_DEFAULT_RANKS: Final = {"train": 2, "allreduce": 2}


def bench(argv: list[str]) -> int:
    """Runs one benchmark and prints its measurements; see ``main.main`` for the exit codes."""
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: marl bench NAME [OPTIONS]\n")
        for name, benchmark in BENCHMARKS.items():
            print(f"  {name:<10} {(benchmark.__doc__ or '').splitlines()[0]}")
        return 0
    name, rest = argv[0], argv[1:]
    if name.startswith("-"):
        raise InputError(f"marl bench NAME comes first, options follow; NAME is one of {', '.join(BENCHMARKS)}")
    if name not in BENCHMARKS:
        raise InputError(f"there is no benchmark {name!r}{nearest(name, BENCHMARKS)}")
    options: BenchOptions = read_options(BenchOptions, rest, program=f"marl bench {name}")
    require_positive(ranks=options.ranks, num_envs=options.num_envs, rounds=options.rounds)
    if not options.seconds > 0:
        raise InputError(f"--seconds must be above 0, got {options.seconds:g}")
    if world_size_from_environment() is None and name not in _STARTS_RANKS:
        ranks = _DEFAULT_RANKS.get(name, 1) if options.ranks is None else options.ranks
        if ranks > 1:
            return launch(["bench", *argv], ranks)

    def run(communicator: Communicator) -> int:
        use_fair_threads(small=name in _SMALL_NETWORKS)
        for measurement in BENCHMARKS[name](options, communicator):
            if communicator.rank == 0:
                print(json.dumps(measurement), flush=True)
        return 0

    from marl.launchers.mpi.ranks import run_on_ranks

    return run_on_ranks(run)
