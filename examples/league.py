"""A league: one player learns tic-tac-toe against itself and its past, and every snapshot of it stays.

``marl league ippo classic/tictactoe-v3`` does likewise from the command line, with a recipe and more options.
"""

from pathlib import Path

from marl.algorithms.mappo import MAPPO, MAPPOConfig
from marl.envs.factory import make_factory
from marl.experiments.config import ExperimentConfig
from marl.league.config import LeagueConfig
from marl.league.experiment import LeagueExperiment
from marl.league.matchmaking import PFSP
from marl.league.roles import SelfPlayer

STEPS = 400_000

if __name__ == "__main__":
    league = LeagueExperiment(
        LeagueConfig(
            experiment=ExperimentConfig(
                builder=MAPPO(config=MAPPOConfig(centralized_critic=False, convolutions="no")),
                environment=make_factory("classic/tictactoe-v3"),
                steps=STEPS,
                num_envs=32,
            ),
            learners={"main": SelfPlayer(matchmaking=PFSP(), save_steps=STEPS // 10)},
            directory=Path("snapshots"),
        )
    )
    result = league.run()
    league.close()
    assert result.evaluation is not None
    print(f"{len(league.league.snapshots)} snapshots; score {result.evaluation.summary()['evaluation/score']:.2f}")
