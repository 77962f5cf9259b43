"""Small games whose returns, infos and names are known, by callable."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv


class Paid(ParallelEnv):
    """Agent k of 0, 1, … is paid k + 1 at each of five steps; with ``masks`` actions other than 0 are fined 1.

    The last infos tell ``battle_won`` (to the first agent only), ``episode_stats``, and what is no number.
    """

    metadata = {"name": "paid"}  # noqa: RUF012
    render_mode = None

    def __init__(self, names: list[str], masks: bool = False, starts: list[int] | None = None) -> None:
        self.possible_agents = list(names)
        self.agents: list[str] = []
        self._masks = masks
        starts = starts or [0] * len(names)
        self._choices = {name: spaces.Discrete(3, start=start) for name, start in zip(names, starts, strict=True)}
        self._seen = spaces.Box(-10, 10, (4,), np.float32)

    def observation_space(self, agent: str) -> Any:
        return self._seen

    def action_space(self, agent: str) -> Any:
        return self._choices[agent]

    def _infos(self, agents: list[str]) -> Any:
        return {a: {"action_mask": np.array([1, 0, 0], np.int8)} if self._masks else {} for a in agents}

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        self.agents = list(self.possible_agents)
        self.time = 0
        return {a: np.zeros(4, np.float32) for a in self.agents}, self._infos(self.agents)

    def step(self, actions: dict[str, Any]) -> Any:
        self.time += 1
        agents, over = list(self.agents), self.time == 5
        infos = self._infos(agents)
        if over:
            self.agents = []
            infos[agents[0]]["battle_won"] = True
            for number, agent in enumerate(agents):
                infos[agent] |= {
                    "episode_stats": {"kills": 2 * number},
                    "note": "text",
                    "table": np.zeros(3),
                    "none": None,
                }
        return (
            {a: np.full(4, self.time, np.float32) for a in agents},
            {a: float(number + 1) - (int(actions[a]) != 0) * self._masks for number, a in enumerate(agents)},
            dict.fromkeys(agents, over),
            dict.fromkeys(agents, False),
            infos,
        )


class Higher(ParallelEnv):
    """Two agents name a number of 0 to 3, once: the higher one gains 1 from the other."""

    metadata = {"name": "higher"}  # noqa: RUF012
    render_mode = None
    possible_agents = ["p_0", "p_1"]  # noqa: RUF012

    def observation_space(self, agent: str) -> Any:
        return _BOX

    def action_space(self, agent: str) -> Any:
        return _FOUR

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        self.agents = list(self.possible_agents)
        return dict.fromkeys(self.agents, np.zeros(1, np.float32)), {a: {} for a in self.agents}

    def step(self, actions: dict[str, Any]) -> Any:
        agents, self.agents = self.agents, []
        gain = float(np.sign(int(actions["p_0"]) - int(actions["p_1"])))
        return (
            dict.fromkeys(agents, np.zeros(1, np.float32)),
            {"p_0": gain, "p_1": -gain},
            dict.fromkeys(agents, True),
            dict.fromkeys(agents, False),
            {a: {} for a in agents},
        )


_BOX = spaces.Box(-1, 1, (1,), np.float32)
_FOUR = spaces.Discrete(4)


def paid(**arguments: Any) -> Paid:
    return Paid(**arguments)


def higher() -> Higher:
    return Higher()


def slow_evaluation() -> Paid:
    """``Paid``, whose copies for evaluation take 0.2 seconds a step."""
    return _late(lambda: time.sleep(0.2))


def hanging_evaluation() -> Paid:
    """``Paid``, whose copies for evaluation hang at their third step."""
    return _late(lambda: time.sleep(3600), from_step=3)


_MADE: list[Paid] = []


def _late(wait: Callable[[], None], from_step: int = 0) -> Paid:
    class Late(Paid):
        steps = 0

        def step(self, actions: dict[str, Any]) -> Any:
            self.steps += 1
            # The first two are a probe and the copy for training.
            if _MADE.index(self) > 1 and self.steps >= from_step:
                wait()
            return super().step(actions)

    _MADE.append(Late(["a", "b"]))
    return _MADE[-1]
