"""Small games with bad habits: they end untidily, move the process to another folder, or draw where they stand."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import toy_game
from gymnasium import spaces
from pettingzoo import AECEnv


class EndsBadly(toy_game.ToyGame):
    """Its close() raises the error that it is given."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self._error = error
        self.metadata = {"name": "ends_badly", "closed": []}

    def close(self) -> None:
        raise self._error


def ends_badly(kind: str = "NotImplementedError") -> EndsBadly:
    errors = {"NotImplementedError": NotImplementedError(), "AttributeError": AttributeError("no screen\nat all")}
    return EndsBadly(errors.get(kind, SystemExit(3)))


class Wanders(toy_game.ToyGame):
    """It leads the process into a folder of its own, at its construction or later."""

    def __init__(self, when: str) -> None:
        super().__init__()
        self._when = when
        self._wander("made")

    def _wander(self, now: str) -> None:
        if now == self._when:
            folder = Path(os.environ["WANDERS_TO"])
            folder.mkdir(exist_ok=True)
            os.chdir(folder)

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        self._wander("reset")
        return super().reset(seed, options)

    def step(self, actions: dict[str, Any]) -> Any:
        self._wander("step")
        return super().step(actions)


def wanders(when: str = "step") -> Wanders:
    return Wanders(when)


def _gauge(time: int) -> Any:
    """A picture whose brightness says how many steps were taken."""
    return np.full((8, 8, 3), 40 * time, np.uint8)


class Gauge(toy_game.ToyGame):
    """Five steps of two agents at once; every picture is brighter than the one before."""

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__()
        self.render_mode = render_mode

    def render(self) -> Any:
        return _gauge(self._steps)


class TurnGauge(AECEnv):
    """Two agents in turn, four turns; every picture is brighter than the one before."""

    metadata = {"name": "turn_gauge", "render_modes": ["rgb_array"]}  # noqa: RUF012 (PettingZoo's convention)

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__()
        self.render_mode = render_mode
        self.possible_agents = ["left", "right"]
        self._seen, self._acted = spaces.Box(0, 1, (1,), np.float32), spaces.Discrete(2)

    def observation_space(self, agent: str) -> Any:
        return self._seen

    def action_space(self, agent: str) -> Any:
        return self._acted

    def reset(self, seed: int | None = None, options: Any = None) -> None:
        self.agents = list(self.possible_agents)
        self.agent_selection = "left"
        self.rewards = dict.fromkeys(self.agents, 0.0)
        self._cumulative_rewards = dict.fromkeys(self.agents, 0.0)
        self.terminations = dict.fromkeys(self.agents, False)
        self.truncations = dict.fromkeys(self.agents, False)
        self.infos = {agent: {} for agent in self.agents}
        self._time = 0

    def observe(self, agent: str) -> Any:
        return np.full(1, self._time / 4, np.float32)

    def step(self, action: Any) -> None:
        if self.terminations[self.agent_selection]:
            self._was_dead_step(action)
            return
        self._cumulative_rewards[self.agent_selection] = 0.0
        self._time += 1
        self.terminations = dict.fromkeys(self.agents, self._time == 4)
        self.rewards = dict.fromkeys(self.agents, 1.0)
        self.agent_selection = self.possible_agents[self._time % 2]
        self._accumulate_rewards()

    def render(self) -> Any:
        return _gauge(self._time)


def gauge(render_mode: str | None = None) -> Gauge:
    return Gauge(render_mode)


def turn_gauge(render_mode: str | None = None) -> TurnGauge:
    return TurnGauge(render_mode)
