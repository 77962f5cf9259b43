"""``marl bench NAME``: figures of speed, each with a reference measured in the same run.

One JSON object a line: ``name, value, unit, reference, ratio``. A figure is the median over rounds in which value
and reference take turns, so that a machine whose speed drifts does not favour either.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

from marl.core import Communicator
from marl.errors import InputError, nearest
from marl.launchers.bench.figures import Figure
from marl.launchers.console import read_options, require_positive
from marl.launchers.environment import use_fair_threads, world_size_from_environment
from marl.launchers.jobs.job import launch
from marl.launchers.mpi.ranks import run_on_ranks
from marl.launchers.run.settings import Backend


@dataclass(frozen=True, kw_only=True)
class Options:
    """What ``marl bench`` can be told."""

    ranks: int | None = None
    """Start that many MPI ranks on this machine."""
    env: str = "mpe2.simple_spread_v3"
    """For rollout and train: the environment."""
    num_envs: int = 128
    """For rollout and train: environment copies, over all ranks."""
    backend: Backend = "pettingzoo"
    """For train and scaling: the unmodified environment, or its equal on tensors."""
    activation: Literal["tanh", "relu"] = "tanh"
    """For train on the batched backend: after each hidden layer."""
    bfloat16: bool = False
    """For train on the batched backend: products between hidden layers in bfloat16."""
    rounds: int = 40
    """How often value and reference take turns."""
    seconds: float = 0.25
    """About how long each turn takes; training takes one update, however long."""
    algorithm: str | None = None
    """For update: only this algorithm."""


def rollout(options: Options, communicator: Communicator) -> Iterator[Figure]:
    """Acting with 64x64 networks on unmodified copies, against ``env.step`` alone."""
    yield from _training().rollout(options.env, options.num_envs, options.rounds, options.seconds, communicator)


def train(options: Options, communicator: Communicator) -> Iterator[Figure]:
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


def scaling(options: Options, communicator: Communicator) -> Iterator[Figure]:
    """Training on 2, 4, ... up to --ranks ranks (2 if not given), each against one rank on one core."""
    words = ["--env", options.env, "--num-envs", str(options.num_envs), "--backend", options.backend]
    yield from _training().scaling([*words, "--rounds", "10"], options.ranks or 2, max(1, options.rounds // 10))


def startup(options: Options, communicator: Communicator) -> Iterator[Figure]:
    """Seconds until help is shown, and until the first update on two ranks, against Python's and torch's own start."""
    yield from importlib.import_module("marl.launchers.bench.startup").run(rounds=max(1, options.rounds // 8))


def _training() -> Any:
    return importlib.import_module("marl.launchers.bench.training")


def allreduce(options: Options, communicator: Communicator) -> Iterator[Figure]:
    """The fused all-reduce, against bare mpi4py on an equal buffer, and one call a parameter."""
    yield from importlib.import_module("marl.launchers.bench.allreduce").run(communicator, repeats=10 * options.rounds)


def replay(options: Options, communicator: Communicator) -> Iterator[Figure]:
    """Inserting into replay and sampling from it, against bare copies of the same bytes."""
    yield from importlib.import_module("marl.launchers.bench.replay").run()


def update(options: Options, communicator: Communicator) -> Iterator[Figure]:
    """One update of each learner, against its matrix products alone."""
    algorithms = None if options.algorithm is None else (options.algorithm,)
    yield from importlib.import_module("marl.launchers.bench.update").run(
        communicator, algorithms, rounds=options.rounds, seconds=options.seconds
    )


BENCHMARKS: Final[dict[str, Callable[[Options, Communicator], Iterator[Figure]]]] = {
    "rollout": rollout,
    "train": train,
    "scaling": scaling,
    "startup": startup,
    "allreduce": allreduce,
    "replay": replay,
    "update": update,
}
_OUTSIDE: Final = ("scaling", "startup")
"""What starts ranks of its own."""
_SMALL: Final = ("rollout", "train", "update")
"""What works on small networks."""
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
    if world_size_from_environment() is None and name not in _OUTSIDE:
        ranks = _RANKS.get(name, 1) if options.ranks is None else options.ranks
        if ranks > 1:
            return launch(["bench", *words], ranks)

    def run(communicator: Communicator) -> int:
        use_fair_threads(small=name in _SMALL)
        for line in BENCHMARKS[name](options, communicator):
            if communicator.rank == 0:
                print(json.dumps(line), flush=True)
        return 0

    return run_on_ranks(run)
