"""A series of resumptions: every algorithm on both backends, stopped at random updates and built anew each time.

As a program it runs under mpirun, ``mpirun -n 4 python resumptions.py FOLDER STOPS SEED``, in one job for 1, 2 and 4
ranks: four ranks train alone, each its share of the cases, then in pairs, then together.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from marl.checkpoints.checkpoint import load_checkpoint
from marl.checkpoints.checkpointer import Checkpointer
from marl.core import Communicator
from marl.distributed.communicators import SerialCommunicator
from marl.experiments.experiment import Experiment
from marl.experiments.resource_usage import MACHINE
from marl.launchers.jobs.mpirun import mpirun_command, rank_environment
from marl.launchers.run.catalog import ALGORITHMS, find_algorithm
from marl.launchers.run.choices import Backend
from marl.launchers.run.settings import Settings, make_experiment_config
from marl.replay import Priorities, ReplayConfig

COPIES = 4
STEPS = 40
"""Of each copy, and about as many updates."""
SPREAD, KUHN = "mpe2.simple_spread_v3", "openspiel/kuhn_poker"
REPLAY = ReplayConfig(capacity=160, batch_size=8, samples_per_insert=2.0, min_size=12, checkpoint=True)
EPISODES = replace(REPLAY, batch_size=4, samples_per_insert=4.0, min_size=4)
_ON_POLICY = {"rollout_length": 2, "epochs": 2, "minibatches": 2, "input_normalization": "running"}
_RECURRENT = {"recurrent": True, "sequence_length": 5, "burn_in": 2, "replay": EPISODES}
_CHANGES: dict[str, dict[str, Any]] = {
    "mappo": {"anneal_learning_rate": True, "value_normalization": "popart"},
    "iql": {"replay": replace(REPLAY, priorities=Priorities())},
    "vdn": {"n_step": 3},
    "qmix": {"standardize_rewards": True},
    "maddpg": {"n_step": 2},
    "iddpg": {"noise": "ornstein-uhlenbeck"},
}
"""Settings with a state of their own, beside the defaults."""
CONTINUOUS = ("iddpg", "matd3", "masac")


@dataclass(frozen=True)
class Case:
    """One algorithm on one backend."""

    algorithm: str
    backend: Backend
    env: str = SPREAD
    settings: dict[str, Any] = field(default_factory=dict)
    name: str = ""

    def __str__(self) -> str:
        return f"{self.name or self.algorithm} on {self.env}, {self.backend}"

    def make(self, communicator: Communicator, device: str = "cpu", steps: int = STEPS) -> Experiment:
        """A new experiment, small and quick."""
        variant = find_algorithm(self.algorithm)
        default = variant.default_config()
        replays = hasattr(default, "replay")
        quick = {"replay": REPLAY} if replays else _ON_POLICY
        quick = quick | ({"epsilon_decay_steps": 100} if hasattr(default, "epsilon_decay_steps") else {})
        kwargs = {"N": 2, "max_cycles": 7, "continuous_actions": self.algorithm in CONTINUOUS}
        settings = Settings(
            algorithm=replace(default, hidden_sizes=(8,), **quick | self.settings),
            steps=steps * COPIES * (1 if replays else 2),
            num_envs=COPIES,
            env_kwargs=json.dumps(kwargs if self.env == SPREAD else {}),
            backend=self.backend,
            device=device,
            evaluation_episodes=0,
            checkpoint_every=None,
            row_every=5 * COPIES,
        )
        return Experiment(make_experiment_config(self.algorithm, self.env, settings), communicator)


def cases() -> list[Case]:
    """Every algorithm of the catalog, the recurrent ones among them, and turn-based games, on both backends."""
    backends: tuple[Backend, ...] = ("pettingzoo", "batched")
    made = []
    for backend in backends:
        made += [Case(name, backend, settings=_CHANGES.get(name, {})) for name in ALGORITHMS]
        for name in ("mappo", "ippo"):
            made.append(Case(name, backend, settings={"recurrent": True, "chunk_length": 2}, name=f"recurrent {name}"))
        for name in ("qmix", "qplex"):
            made.append(Case(name, backend, settings=_RECURRENT, name=f"recurrent {name}"))
        made += [Case(name, backend, env=KUHN) for name in ("ippo", "iql")]
    return made


class Rows:
    """A logger that keeps what does not tell of the machine."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def write(self, row: Mapping[str, float]) -> None:
        self.rows.append({name: value for name, value in row.items() if name not in MACHINE})

    def close(self) -> None:
        pass


@dataclass
class Resumptions:
    """Statistics of a series."""

    resumptions: Counter[str] = field(default_factory=Counter)
    """By ranks."""
    series: Counter[str] = field(default_factory=Counter)
    """Cases, by ranks."""
    problems: list[str] = field(default_factory=list)
    changed: int = 0
    """Cases whose number of ranks changed."""
    farthest: float = 0.0
    """The largest difference of a weight, or of what goes with it, where the number of ranks changed."""

    def __iadd__(self, other: Resumptions) -> Resumptions:
        self.resumptions += other.resumptions
        self.series += other.series
        self.problems += other.problems
        self.changed += other.changed
        self.farthest = max(self.farthest, other.farthest)
        return self

    def summary(self) -> dict[str, Any]:
        return {
            "resumptions, by ranks": dict(self.resumptions),
            "cases, by ranks": dict(self.series),
            "problems": self.problems,
            "4, 2, 1, 4 ranks: cases": self.changed,
            "4, 2, 1, 4 ranks: largest difference": self.farthest,
        }


def train(
    case: Case, communicator: Communicator, folder: Path, rows: Rows, *, stop_at: int | None = None, asks: int = 0
) -> int:
    """Trains from the newest checkpoint to a stop, or to the end; the updates that were done.

    Args:
        case: what to train.
        communicator: the ranks.
        folder: of the checkpoints.
        rows: takes metrics.
        stop_at: the update after which to stop.
        asks: which rank asks for it.
    """
    experiment = case.make(communicator)
    try:
        if any(folder.iterdir()):
            experiment.load(load_checkpoint(folder))

        def should_stop() -> bool:
            return communicator.rank == asks and stop_at is not None and experiment.counter.updates + 1 >= stop_at

        experiment.run(rows, Checkpointer(folder, keep=1), should_stop)
        communicator.all_reduce(torch.zeros(1))  # rank 0 has written
        return experiment.counter.updates
    finally:
        experiment.close()


def resume_case(case: Case, communicator: Communicator, folder: Path, stops: int, chance: random.Random) -> Resumptions:
    """Trains a case without a stop, and once more with so many; everything must be the same, bit by bit."""
    size, found = str(communicator.size), Resumptions()
    whole, parts = _folders(communicator, folder, "whole", "parts")
    undisturbed, rows = Rows(), Rows()
    updates = train(case, communicator, whole, undisturbed)
    # An update at the end of the last step is not followed by another that a stop could come before.
    moments = sorted(chance.sample(range(1, updates - 1), min(stops, updates - 2)))
    for moment in moments:
        train(case, communicator, parts, rows, stop_at=moment, asks=chance.randrange(communicator.size))
        found.resumptions[size] += 1
    train(case, communicator, parts, rows)
    found.series[size] += 1
    if communicator.rank == 0:
        problems = differences(whole, parts)
        if json.dumps(rows.rows, sort_keys=True) != json.dumps(undisturbed.rows, sort_keys=True):
            problems.append("metrics differ")
        if len(moments) < stops:
            problems.append(f"only {updates} updates")
        found.problems += [f"{case}, {size} ranks, stopped at {moments}: {problem}" for problem in problems]
    return found


def differences(whole: Path, parts: Path) -> list[str]:
    """What differs between the newest checkpoints of two folders."""
    first, second = load_checkpoint(whole), load_checkpoint(parts)
    names = sorted(first.tensors.keys() ^ second.tensors.keys())
    for name in sorted(first.tensors.keys() & second.tensors.keys()):
        ours, theirs = first.tensors[name], second.tensors[name]
        same = ours.dtype == theirs.dtype and ours.shape == theirs.shape
        if not same or ours.numpy().tobytes() != theirs.numpy().tobytes():
            names.append(name)
    counts = [{k: v for k, v in saved.metadata["counter"].items() if k not in MACHINE} for saved in (first, second)]
    found = [f"{', '.join(names[:5])} and {len(names)} in all differ"] if names else []
    return found + [f"counts are {counts[1]}, not {counts[0]}"] * (counts[0] != counts[1])


def _folders(communicator: Communicator, folder: Path, *names: str) -> Iterator[Path]:
    for name in names:
        if communicator.rank == 0:
            (folder / name).mkdir(parents=True)
        communicator.all_reduce(torch.zeros(1))
        yield folder / name


def resume_alone(
    folder: Path, stops: int, *, seed: int = 0, communicator: Communicator | None = None, of: Sequence[Case] = ()
) -> Resumptions:
    """Every case, or those that are given, in this process or on these ranks."""
    statistics = Resumptions()
    for case in of or cases():
        number = cases().index(case)
        path = folder / str(number)
        chance = random.Random(f"{seed} {number}")
        ranks = communicator or SerialCommunicator()
        statistics += resume_case(case, ranks, path, stops, chance)
        if ranks.rank == 0:
            shutil.rmtree(path)
    return statistics


def change_ranks(
    case: Case, communicators: Mapping[int, Communicator | None], together: Communicator, folder: Path
) -> Resumptions:
    """Trains a case on 4 ranks, and once more on 4, then 2, then 1, then 4: equal up to rounding."""
    found = Resumptions()
    whole, parts = _folders(together, folder, "whole", "parts")
    rows, undisturbed = Rows(), Rows()
    updates = train(case, together, whole, undisturbed)
    for size, moment in ((4, updates // 4), (2, updates // 2), (1, 3 * updates // 4), (4, None)):
        chosen = communicators[size]
        if chosen is not None:
            train(case, chosen, parts, rows, stop_at=moment)
        together.all_reduce(torch.zeros(1))
    if together.rank == 0:
        first, second = (_weights(path) for path in (whole, parts))
        found.changed, found.farthest = 1, float((first - second).abs().max())
        names = ("env_steps", "updates", "episodes")
        if [[row[name] for name in names] for row in undisturbed.rows] != [
            [row[name] for name in names] for row in rows.rows
        ]:
            found.problems.append(f"{case}, 4 to 2 to 1 to 4 ranks: counts differ")
        if not torch.allclose(second, first, rtol=2e-3, atol=2e-5):
            found.problems.append(f"{case}, 4 to 2 to 1 to 4 ranks: weights differ by {found.farthest:.1e}")
    return found


def _weights(folder: Path) -> Tensor:
    """Everything of the learner that is a number with a fraction, in one row."""
    tensors = load_checkpoint(folder).tensors
    chosen = [tensor for name, tensor in sorted(tensors.items()) if name.startswith("learner.")]
    return torch.cat([tensor.double().flatten() for tensor in chosen if tensor.is_floating_point()])


def resume_on_ranks(folder: Path, stops: int, *, seed: int = 0) -> dict[str, Any]:
    """The whole series on 1, 2 and 4 ranks, in one job."""
    command = mpirun_command([sys.executable, __file__, str(folder), str(stops), str(seed)], 4)
    variables = rank_environment(4) | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=variables, stdout=subprocess.PIPE, text=True, check=False)
    try:
        statistics: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        return {"problems": [f"mpirun ended with exit code {done.returncode} and said {done.stdout[-500:]!r}"]}
    return statistics


def main(world: Communicator) -> int:
    """A rank's part in the series."""
    from marl.launchers.mpi.communicator import MPICommunicator

    assert isinstance(world, MPICommunicator)
    torch.set_num_threads(1)
    folder, stops, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    everything = cases()
    communicators: dict[int, Communicator | None] = {4: world}
    statistics = Resumptions()
    for size in (1, 2, 4):
        team, teams = world.rank // size, world.size // size
        ours = world if size == 4 else MPICommunicator(world.comm.Split(team))
        communicators[size] = ours if team == 0 else None
        part = resume_alone(folder / f"{size} {team}", stops, seed=seed, communicator=ours, of=everything[team::teams])
        if ours.rank == 0:
            statistics += part
        world.all_reduce(torch.zeros(1))
    for number, case in enumerate(everything):
        path = folder / f"change {number}"
        statistics += change_ranks(case, communicators, world, path)
        if world.rank == 0:
            shutil.rmtree(path)
    parts = world.comm.gather(statistics)
    if parts is not None:
        total = Resumptions()
        for part in parts:
            total += part
        sys.stdout.write(json.dumps(total.summary()) + "\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    from marl.launchers.mpi.ranks import run_on_ranks

    sys.exit(run_on_ranks(main))
