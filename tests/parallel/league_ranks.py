"""Trains leagues on some number of ranks and leaves what came of it; ``test_league_ranks.py`` compares."""

import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "helpers"))

from mappo_ranks import TURNS, Rows
from probes import anything

from marl.algorithms.mappo import MAPPO, MAPPOConfig
from marl.algorithms.qmix import QMIX, QMIXConfig
from marl.builders import Builder
from marl.checkpoints.checkpoint import load_checkpoint
from marl.checkpoints.checkpointer import Checkpointer
from marl.core import Communicator
from marl.experiments.config import ExperimentConfig
from marl.experiments.resource_usage import MACHINE
from marl.launchers.mpi.communicator import MPICommunicator
from marl.launchers.mpi.ranks import run_on_ranks
from marl.league.config import LeagueConfig
from marl.league.experiment import LeagueExperiment
from marl.league.matchmaking import PFSP
from marl.league.roles import Exploiter, MainPlayer, Oracle
from marl.replay import ReplayConfig
from marl.specs import AgentSpec, ArraySpec, DiscreteActions

COPIES, LENGTH, ROUNDS = 5, 8, 6
UPDATE = COPIES * LENGTH
HUNT = anything(
    AgentSpec(name="hunter_0", observation=ArraySpec(shape=(3,)), action=DiscreteActions(num_actions=3)),
    AgentSpec(name="hunter_1", observation=ArraySpec(shape=(3,)), action=DiscreteActions(num_actions=3)),
    AgentSpec(name="prey", observation=ArraySpec(shape=(4,)), action=DiscreteActions(num_actions=2)),
)
ROLES = {
    "main": MainPlayer(matchmaking=PFSP(), save_steps=2 * UPDATE),
    "exploiter": Exploiter(min_steps=UPDATE, max_steps=3 * UPDATE, min_games=2),
}
SCENARIOS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "roles": (TURNS, ROLES, {}),
    "psro": (HUNT, {"main": Oracle(save_steps=2 * UPDATE)}, {"centralized_critic": True, "recurrent": True}),
    "psro by replay": (TURNS, {"main": Oracle(save_steps=6 * UPDATE)}, {"from_replay": True}),
}
QUICK = ReplayConfig(capacity=400, batch_size=16, samples_per_insert=4.0, min_size=40, checkpoint=True)


def make(scenario: str, communicator: Communicator, directory: Path) -> LeagueExperiment:
    environment, learners, settings = SCENARIOS[scenario]
    builder: Builder[Any]
    rounds = ROUNDS
    if "from_replay" in settings:
        # A round is of 32 steps, not of one rollout.
        rounds *= 4
        q_learner = QMIXConfig(
            mixer="none", team_reward=False, hidden_sizes=(16,), replay=QUICK, epsilon_decay_steps=200
        )
        builder = QMIX(config=q_learner)
    else:
        chosen = {"centralized_critic": False, "hidden_sizes": (16,), "rollout_length": LENGTH, "epochs": 2, **settings}
        builder = MAPPO(config=MAPPOConfig(**chosen))
    experiment = ExperimentConfig(
        builder=builder,
        environment=environment,
        seed=3,
        steps=rounds * UPDATE * len(learners),
        num_envs=COPIES,
        evaluation_episodes=7,
    )
    measure = 4 if scenario.startswith("psro") else 0
    config = LeagueConfig(experiment=experiment, learners=learners, directory=directory, measure_games=measure)
    return LeagueExperiment(config, communicator)


def check(scenario: str, communicator: Communicator, folder: Path) -> None:
    found: dict[str, Any] = {}
    folder = folder / f"{scenario} {communicator.size}"
    for name in ("whole", "stopped", "resumed"):
        saved = folder / f"{name} checkpoints"
        league = make(scenario, communicator, folder / ("snapshots" if name == "whole" else "stopped snapshots"))
        asked: list[int] = []
        if name == "resumed":
            league.load(load_checkpoint(folder / "stopped checkpoints"))
        last = communicator.rank == communicator.size - 1

        def stop(name: str = name, last: bool = last, asked: list[int] = asked) -> bool:
            asked.append(1)
            return name == "stopped" and last and len(asked) == 3

        logger = Rows()
        result = league.run(logger, Checkpointer(saved), stop)
        assert result.stopped == (name == "stopped")
        found[name] = {
            "weights": result.learner_state,
            "payoffs": league.league.payoffs.state_dict(),
            "snapshots": [(s.name, s.env_steps) for s in league.league.snapshots],
            "digests": [s.digest for s in league.league.snapshots],
            "rows": [{k: v for k, v in row.items() if k not in MACHINE} for row in logger.rows],
            "summary": None if result.evaluation is None else result.evaluation.summary(),
        }
        league.close()
        communicator.all_reduce(torch.zeros(1))  # Rank 0 has written.
    if communicator.rank == 0:
        torch.save(found, folder / "found.pt")


def main(_: Communicator) -> int:
    communicator = MPICommunicator()
    torch.set_num_threads(1)
    for scenario in SCENARIOS:
        check(scenario, communicator, Path(sys.argv[1]))
    return 0


if __name__ == "__main__":
    sys.exit(run_on_ranks(main))
