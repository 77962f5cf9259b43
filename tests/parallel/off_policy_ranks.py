"""Trains off-policy learners on some number of ranks and leaves their weights; the test of this name compares."""

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from mappo_ranks import MostlySilent, Rows
from torch import Tensor

from marl.algorithms.maddpg import MADDPG, MADDPGConfig
from marl.algorithms.masac import MASAC, MASACConfig
from marl.algorithms.qmix import QMIX, QMIXConfig
from marl.builders import Builder
from marl.checkpoints.checkpoint import list_checkpoints, load_checkpoint
from marl.checkpoints.checkpointer import Checkpointer
from marl.core import Communicator, EnvironmentFactory, EnvironmentRequest
from marl.distributed.replica_checks import assert_replicas_equal
from marl.experiments.config import ExperimentConfig
from marl.experiments.experiment import Experiment
from marl.launchers.mpi.communicator import MPICommunicator
from marl.launchers.mpi.ranks import run_on_ranks
from marl.replay import Priorities, ReplayConfig

COPIES = 5
QUICK = {"hidden_sizes": (8,)}
REPLAY = ReplayConfig(capacity=200, batch_size=8, samples_per_insert=1.6, min_size=20, checkpoint=True)
EPISODES = ReplayConfig(capacity=100, batch_size=4, samples_per_insert=4.0, min_size=4, checkpoint=True)


class OneEnds(MostlySilent):
    """Episodes end in the first copy alone: of whole episodes, all ranks but one have nothing in their replay."""

    def __init__(self, request: EnvironmentRequest) -> None:
        super().__init__(request)
        self._ends = self._speaks.unsqueeze(1)

    def play(self, actions, rewards, terminated, truncated) -> None:
        super().play(actions, rewards, terminated, truncated)
        terminated &= self._ends
        truncated &= self._ends


def q_learner(**settings: Any) -> QMIX:
    return QMIX(config=QMIXConfig(**{**QUICK, "replay": REPLAY, "epsilon_decay_steps": 100, **settings}))


SCENARIOS: dict[str, tuple[EnvironmentFactory, Builder[Any], int]] = {
    "qmix": (MostlySilent, q_learner(replay=replace(REPLAY, priorities=Priorities())), 24),
    "empty shards": (OneEnds, q_learner(mixer="none", recurrent=True, sequence_length=90, replay=EPISODES), 80),
    "maddpg": (MostlySilent, MADDPG(config=MADDPGConfig(**QUICK, n_step=2, replay=REPLAY)), 24),
    "masac": (MostlySilent, MASAC(config=MASACConfig(**QUICK, replay=REPLAY)), 24),
    "replay not saved": (MostlySilent, q_learner(replay=replace(REPLAY, checkpoint=False)), 32),
}
"""Environment, algorithm, and steps of each copy: about 20 updates of a batch that most ranks have a few rows of."""


def make(scenario: str, communicator: Communicator | None) -> Experiment:
    environment, builder, steps = SCENARIOS[scenario]
    return Experiment(
        ExperimentConfig(
            builder=builder,
            environment=environment,
            seed=3,
            steps=steps * COPIES,
            num_envs=COPIES,
            checkpoint_every=steps // 2 * COPIES,
            evaluation_episodes=0,
        ),
        communicator,
    )


def run(
    experiment: Experiment, checkpointer: Checkpointer | None = None
) -> tuple[dict[str, Tensor], list[Mapping[str, float]]]:
    """Trains; before each update all replicas must be the same, bit by bit."""

    def check_replicas() -> bool:
        state = experiment.learner.state_dict()
        everything = torch.cat([tensor.double().flatten() for _, tensor in sorted(state.items())])
        assert_replicas_equal(experiment.communicator, everything)
        return False

    logger = Rows()
    result = experiment.run(logger, checkpointer, check_replicas)
    return result.learner_state, logger.rows


def check(scenario: str, communicator: Communicator, folder: Path) -> None:
    directory = folder / f"{scenario} {communicator.size}"
    found: dict[str, Any] = {}
    whole = make(scenario, communicator)
    found["weights"], found["rows"] = run(whole, Checkpointer(directory))
    stored = torch.zeros(communicator.size)
    stored[communicator.rank] = float(whole.dataset.replay.local_counts.sum())
    communicator.all_reduce(stored)  # And rank 0 has written.
    found["stored"] = stored.tolist()
    for name, source in (("resumed", directory), ("resumed from one rank", folder / f"{scenario} 1")):
        again = make(scenario, communicator)
        again.load(load_checkpoint(list_checkpoints(source)[-2]))
        found[f"weights {name}"], found[f"rows {name}"] = run(again)
    if communicator.rank == 0:
        torch.save(found, folder / f"{scenario} {communicator.size}.pt")


def main(_: Communicator) -> int:
    communicator = MPICommunicator()
    torch.set_num_threads(1)
    for scenario in SCENARIOS:
        check(scenario, communicator, Path(sys.argv[1]))
    return 0


if __name__ == "__main__":
    sys.exit(run_on_ranks(main))
