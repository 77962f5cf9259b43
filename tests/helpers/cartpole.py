"""Gymnasium's CartPole as a game of one agent: an episode of 500 steps is the best, return 500."""

import gymnasium
from gymnasium import spaces

from marl.envs.gymnasium_tuple import GymnasiumTupleEnv

LIMIT = 500


class CartPoleTuple(gymnasium.Env):
    def __init__(self):
        self._single = gymnasium.make("CartPole-v1", disable_env_checker=True).unwrapped
        self.observation_space = spaces.Tuple([self._single.observation_space])
        self.action_space = spaces.Tuple([self._single.action_space])
        self.render_mode = None
        self._steps = 0

    def reset(self, *, seed=None, options=None):
        self._steps = 0
        observation, info = self._single.reset(seed=seed)
        return (observation,), info

    def step(self, actions):
        observation, reward, ended, _, info = self._single.step(int(actions[0]))
        self._steps += 1
        return (observation,), [reward], ended, not ended and self._steps >= LIMIT, info


def cartpole():
    return GymnasiumTupleEnv(CartPoleTuple())
