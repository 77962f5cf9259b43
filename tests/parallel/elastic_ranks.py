"""Trains on ranks of which some die, as arguments ``RANK@UPDATE`` say; ``test_elastic.py`` checks the result.

``RANK@UPDATE`` dies after an update, ``RANK@UPDATE+`` while the snapshot behind it is taken, ``RANK@-1`` before all.
With ``unclassified``, every loss looks as if MPI had reported it as an error of another class.
"""

import os
import signal
import sys
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "helpers"))

from probes import DelayedCredit

from marl.algorithms.mappo import MAPPO, MAPPOConfig
from marl.checkpoints.checkpoint import Checkpoint
from marl.core import Communicator, State
from marl.distributed.replica_checks import assert_replicas_equal
from marl.experiments.config import ExperimentConfig
from marl.experiments.experiment import Experiment
from marl.launchers.mpi.elastic_communicator import ElasticCommunicator
from marl.launchers.mpi.ranks import run_on_ranks
from marl.launchers.training.elastic import ElasticTraining

UPDATES = 12
CONFIG = ExperimentConfig(
    builder=MAPPO(config=MAPPOConfig(rollout_length=4, epochs=1, hidden_sizes=(16,))),
    environment=DelayedCredit,
    seed=3,
    steps=UPDATES * 4 * 7,
    num_envs=7,
    evaluation_episodes=0,
)


def main(communicator: Communicator) -> int:
    out, deaths = Path(sys.argv[1]), sys.argv[2:]
    assert isinstance(communicator, ElasticCommunicator)
    me = communicator.rank
    if "unclassified" in deaths:
        communicator._loss_classes = ()
    # A snapshot after every update, whatever it costs.
    elastic = ElasticTraining(communicator, 60, lambda line: print(line, flush=True), share=1e9)  # noqa: T201
    gather = communicator.gather_rows_everywhere

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def attempt(snapshot: Checkpoint | None) -> State:
        if f"{me}@-1" in deaths:
            die()
        experiment = Experiment(CONFIG, communicator)
        if snapshot is not None:
            experiment.load(snapshot)

        def gather_or_die(tensor: Tensor) -> Tensor:
            if f"{me}@{experiment.counter.updates}+" in deaths:
                die()
            return gather(tensor)

        communicator.gather_rows_everywhere = gather_or_die  # type: ignore[method-assign]

        def at_boundary() -> None:
            elastic.at_boundary(experiment)
            if f"{me}@{experiment.counter.updates}" in deaths:
                die()

        state = experiment.run(at_boundary=at_boundary).learner_state
        for name, tensor in sorted(state.items()):
            assert_replicas_equal(communicator, tensor, what=name)
        return state

    state = elastic.run(attempt)
    if communicator.rank == 0:
        torch.save({**state, "ranks": torch.tensor(communicator.size)}, out)
    return 0


if __name__ == "__main__":
    sys.exit(run_on_ranks(main))
