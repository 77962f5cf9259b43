"""An environment of your own: any PettingZoo environment, batched and stepped as it is.

``python examples/own_environment.py`` trains on it; so does ``marl train ippo own_environment:make`` in this folder,
and ``marl doctor own_environment:make`` says whether it keeps PettingZoo's rules.
"""

import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv

from marl.algorithms.mappo import MAPPO, MAPPOConfig
from marl.envs.factory import vectorize
from marl.experiments.config import ExperimentConfig
from marl.experiments.experiment import run_experiment

STEPS = 50_000
LENGTH, TIME_LIMIT = 8, 20


class Corridor(ParallelEnv):
    """Two walkers are paid once both stand on the same field, and start at the two ends of a corridor."""

    def __init__(self):
        self.metadata = {"name": "corridor"}
        self.render_mode = None
        self.possible_agents = ["left", "right"]
        self.observation_spaces = {agent: spaces.Box(0, LENGTH, (2,), np.float32) for agent in self.possible_agents}
        self.action_spaces = {agent: spaces.Discrete(3) for agent in self.possible_agents}

    def observation_space(self, agent):
        return self.observation_spaces[agent]

    def action_space(self, agent):
        return self.action_spaces[agent]

    def reset(self, seed=None, options=None):
        self.agents = list(self.possible_agents)
        self.places = {"left": 0, "right": LENGTH}
        self.time = 0
        return self._observe(), {agent: {} for agent in self.agents}

    def step(self, actions):
        for agent, action in actions.items():
            self.places[agent] = int(np.clip(self.places[agent] + action - 1, 0, LENGTH))
        self.time += 1
        met = self.places["left"] == self.places["right"]
        reward = 1.0 if met else -0.01
        # What ends by itself is terminated; what a time limit cuts off is truncated, and its last value counts.
        over, cut = met, self.time >= TIME_LIMIT and not met
        agents = self.agents
        if over or cut:
            self.agents = []
        return (
            self._observe(),
            dict.fromkeys(agents, reward),
            dict.fromkeys(agents, over),
            dict.fromkeys(agents, cut),
            {agent: {} for agent in agents},
        )

    def _observe(self):
        one, other = self.places["left"], self.places["right"]
        return {"left": np.array([one, other], np.float32), "right": np.array([other, one], np.float32)}


def make() -> Corridor:
    """What the command line is told by ``own_environment:make``."""
    return Corridor()


if __name__ == "__main__":
    result = run_experiment(
        ExperimentConfig(
            builder=MAPPO(config=MAPPOConfig(centralized_critic=False)),
            environment=vectorize(make),
            steps=STEPS,
            num_envs=16,
        )
    )
    assert result.evaluation is not None
    print(f"return {result.evaluation.summary()['evaluation/return_mean']:.2f}; the best is 1.94")
