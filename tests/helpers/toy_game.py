"""Environments of a user's own, by callable: a small game that breaks whichever rule it is told to break."""

from __future__ import annotations

from typing import Any

import numpy as np
import pettingzoo
from gymnasium import spaces
from pettingzoo import ParallelEnv
from pettingzoo.utils import BaseWrapper


class ToyGame(ParallelEnv):
    metadata = {"name": "toy_game", "render_modes": []}  # noqa: RUF012 (PettingZoo's convention)
    render_mode = None

    def __init__(self, fault: str = "none", bonus: float = 0.0) -> None:
        self.possible_agents = ["left", "right"]
        self.agents: list[str] = []
        self._fault = fault
        self._bonus = bonus
        self._steps = 0
        graph = spaces.Graph(spaces.Box(0, 1, (2,)), None)
        self._observed = spaces.Text(3) if fault == "text" else spaces.Box(-1, 1, (3,), np.float32)
        self._acted = graph if fault == "graph" else spaces.Discrete(2)

    def observation_space(self, agent: str) -> Any:
        return self._observed

    def action_space(self, agent: str) -> Any:
        return self._acted

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        self.agents = list(self.possible_agents)
        self._steps = 0
        return self._observations(), {agent: {} for agent in self.agents}

    def step(self, actions: dict[str, Any]) -> Any:
        self._steps += 1
        ended = self._steps >= 5
        if self._fault == "raises" and self._steps == 3:
            raise RuntimeError("the game fell over")
        rewards: dict[str, Any] = {agent: float(actions[agent]) + self._bonus for agent in self.agents}
        if self._fault == "reward":
            rewards["right"] = "a lot"
        flags = dict.fromkeys(self.agents, ended)
        result = (rewards, flags, dict.fromkeys(self.agents, False), {agent: {} for agent in self.agents})
        observations = self._observations()
        if ended:
            self.agents = []
        return observations, *result

    def _observations(self) -> dict[str, Any]:
        observations = {agent: np.full(3, self._steps / 5, np.float32) for agent in self.agents}
        if self._fault == "shape":
            observations["right"] = np.zeros(4, np.float32)
        if self._fault == "nan":
            observations["right"] = np.full(3, np.nan, np.float32)
        if self._fault == "missing":
            del observations["right"]
        return observations


def make(fault: str = "none", bonus: float = 0.0) -> ToyGame:
    return ToyGame(fault, bonus)


class _Strict(BaseWrapper):
    def step(self, action: Any) -> None:
        observation, _, terminated, truncated, _ = self.env.last()
        if not (terminated or truncated) and not observation["action_mask"][action]:
            raise AssertionError(f"{self.env.agent_selection} made the illegal move {action}")
        self.env.step(action)


def strict_tictactoe() -> Any:
    """Tic-tac-toe that raises at an illegal move."""
    return _Strict(pettingzoo.make("aec", "classic/tictactoe-v3"))
