"""Trains MAPPO on some number of ranks and leaves its weights; ``test_mappo_ranks.py`` compares them."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "helpers"))

from probes import Anything, DelayedCredit, Remember, anything

from marl.algorithms.mappo import MAPPO, MAPPOConfig
from marl.checkpoints.checkpoint import list_checkpoints, load_checkpoint
from marl.checkpoints.checkpointer import Checkpointer
from marl.core import Communicator, EnvironmentRequest
from marl.distributed.replica_checks import assert_replicas_equal
from marl.experiments.config import ExperimentConfig
from marl.experiments.experiment import Experiment
from marl.launchers.mpi.communicator import MPICommunicator
from marl.launchers.mpi.ranks import run_on_ranks
from marl.specs import AgentSpec, ArraySpec, DiscreteActions

UPDATES = 20
SAVED_AFTER = 17
COPIES = 5

_FIVE, _THREE = DiscreteActions(num_actions=5), DiscreteActions(num_actions=3)
_VECTOR, _SMALL = ArraySpec(shape=(6,)), ArraySpec(shape=(3,))


class MostlySilent(Anything):
    """Group b acts in the first copy alone, so on all ranks but one its learner has nothing to learn from."""

    agents = (
        AgentSpec(name="a_0", observation=_VECTOR, action=_FIVE, masked=True),
        AgentSpec(name="a_1", observation=_VECTOR, action=_FIVE, masked=True),
        AgentSpec(name="b", observation=_SMALL, action=_THREE),
    )

    def __init__(self, request: EnvironmentRequest) -> None:
        self._speaks = torch.arange(request.first_env, request.first_env + request.num_envs) == 0
        super().__init__(request)

    def acting(self) -> Tensor:
        acting = torch.ones_like(self.memory["alive"])
        acting[:, 2] = self._speaks
        return acting


TURNS = anything(
    AgentSpec(name="a_0", observation=_VECTOR, action=_FIVE, masked=True),
    AgentSpec(name="a_1", observation=_VECTOR, action=_FIVE, masked=True),
    turns=True,
)

SCENARIOS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "feed-forward": (DelayedCredit, {"epochs": 1, "minibatches": 4, "anneal_learning_rate": True}),
    "recurrent": (Remember, {"recurrent": True, "chunk_length": 3, "minibatches": 2}),
    "silent group": (MostlySilent, {"input_normalization": "running", "value_normalization": "popart"}),
    "turns": (TURNS, {"epochs": 1, "target_kl": 0.02, "minibatches": 3}),
}


@dataclass
class Rows:
    """A logger that keeps what it is given."""

    rows: list[Mapping[str, float]] = field(default_factory=list)

    def write(self, row: Mapping[str, float]) -> None:
        self.rows.append(row)

    def close(self) -> None:
        pass


def make(scenario: str, communicator: Communicator | None, *, updates: int = UPDATES) -> Experiment:
    environment, settings = SCENARIOS[scenario]
    config = MAPPOConfig(**{"hidden_sizes": (16, 16), "rollout_length": 8, "epochs": 2, **settings})
    return Experiment(
        ExperimentConfig(
            builder=MAPPO(config=config),
            environment=environment,
            seed=3,
            steps=updates * config.rollout_length * COPIES,
            num_envs=COPIES,
            checkpoint_every=SAVED_AFTER * config.rollout_length * COPIES,
            evaluation_episodes=13,
        ),
        communicator,
    )


def run(
    experiment: Experiment, *, checkpointer: Checkpointer | None = None, stop_after: int | None = None
) -> tuple[dict[str, Tensor], list[Mapping[str, float]]]:
    """Trains; after each update all replicas must be the same, bit by bit. One rank alone asks for the stop."""
    communicator = experiment.communicator

    def should_stop() -> bool:
        assert_replicas_equal(communicator, experiment.learner._optimizer.parameters)
        return experiment.counter.updates == stop_after and communicator.rank == communicator.size - 1

    logger = Rows()
    experiment.config = replace(experiment.config, evaluation_episodes=0)
    result = experiment.run(logger, checkpointer, should_stop)
    assert result.stopped == (stop_after is not None)
    return result.learner_state, logger.rows


def check(scenario: str, communicator: Communicator, folder: Path) -> None:
    ranks = communicator.size
    found: dict[str, Any] = {}
    untrained = make(scenario, communicator)
    found["evaluation"] = untrained.evaluate().returns
    directory = folder / f"{scenario} {ranks}"
    found["weights"], found["rows"] = run(untrained, checkpointer=Checkpointer(directory))
    communicator.all_reduce(torch.zeros(1))  # Rank 0 has written.
    for name, source in (("resumed", directory), ("resumed from one rank", folder / f"{scenario} 1")):
        again = make(scenario, communicator)
        again.load(load_checkpoint(list_checkpoints(source)[-2]))
        found[f"weights {name}"], found[f"rows {name}"] = run(again)
    if communicator.rank == 0:
        torch.save(found, folder / f"{scenario} {ranks}.pt")


def main(_: Communicator) -> int:
    communicator = MPICommunicator()
    torch.set_num_threads(1)
    run(make("feed-forward", communicator, updates=5), stop_after=2)
    for scenario in SCENARIOS:
        check(scenario, communicator, Path(sys.argv[1]))
        if communicator.rank == 0:
            sys.stdout.write(f"passed {scenario}\n")
            sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(run_on_ranks(main))
