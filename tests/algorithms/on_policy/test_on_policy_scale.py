"""What PPO's defaults learn where the mean and the scale of an observation say what to do."""

import pytest

from marl.algorithms.mappo import MAPPO, MAPPOConfig
from marl.envs.factory import make_factory
from marl.experiments.config import ExperimentConfig
from marl.experiments.experiment import run_experiment


def greedy_return(environment, *, steps, seed=0, episodes=100, **settings):
    config = MAPPOConfig(centralized_critic=False, **settings)
    result = run_experiment(
        ExperimentConfig(
            builder=MAPPO(config=config),
            environment=make_factory(environment),
            steps=steps,
            seed=seed,
            evaluation_episodes=episodes,
        )
    )
    return result.evaluation.summary()["evaluation/return_mean"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_defaults_balance_a_pole(seed):
    assert greedy_return("cartpole:cartpole", steps=60_000, seed=seed) >= 480.0


@pytest.mark.slow
def test_defaults_steer_a_point_nearly_as_well_as_can_be():
    assert greedy_return("envs.linear_quadratic:linear_quadratic", steps=1_000_000, episodes=2_000) >= -4.6
