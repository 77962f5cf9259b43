"""Trains MAPPO on three agents that cover three landmarks.

``python examples/train.py``, or ``mpirun -n 2 python examples/train.py``: any number of ranks learns the same.
"""

from pathlib import Path

from marl.algorithms.mappo import MAPPO, MAPPOConfig
from marl.checkpoints.checkpointer import Checkpointer
from marl.core import Communicator
from marl.envs.factory import make_factory
from marl.experiments.config import ExperimentConfig
from marl.experiments.experiment import run_experiment
from marl.launchers.mpi import run_on_ranks
from marl.loggers import JournalLogger

STEPS = 1_000_000
OUT = Path("spread")


def main(communicator: Communicator) -> int:
    """One of the ranks."""
    OUT.mkdir(exist_ok=True)
    result = run_experiment(
        ExperimentConfig(
            builder=MAPPO(config=MAPPOConfig(discount=0.9, minibatches=4)),
            environment=make_factory("mpe2.simple_spread_v3"),
            steps=STEPS,
            checkpoint_every=200_000,
        ),
        communicator=communicator,
        # Rank 0 writes; the other ranks are handed the same and stay silent.
        logger=JournalLogger(OUT / "metrics.jsonl") if communicator.rank == 0 else None,
        checkpointer=Checkpointer(OUT / "checkpoints"),
    )
    if communicator.rank == 0 and result.evaluation is not None:
        print(f"return {result.evaluation.summary()['evaluation/return_mean']:.1f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(run_on_ranks(main))
