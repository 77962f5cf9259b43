"""Small PettingZoo environments whose every number is known."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from pettingzoo import AECEnv, ParallelEnv


class Countdown(ParallelEnv):
    """Agent i observes (agent index, steps so far, seed % 1000) and lives for ``lives[i]`` steps.

    Agents whose life is over are terminated, or truncated where their index is in ``cut``; agents in ``late`` appear
    at the given step. Rewards are index + 1 at every step of life.
    """

    metadata = {"name": "countdown"}  # noqa: RUF012
    render_mode = None

    def __init__(self, lives: tuple[int, ...] = (3, 3), cut: tuple[int, ...] = (), late: dict[int, int] | None = None):
        self.lives, self.cut, self.late = lives, cut, late or {}
        self.possible_agents = [f"agent_{index}" for index in range(len(lives))]
        self.agents: list[str] = []
        self.received: list[dict[str, Any]] = []
        self.spaces = {agent: spaces.Box(-1000, 1000, (3,), np.float32) for agent in self.possible_agents}
        self.choices = {agent: spaces.Discrete(4) for agent in self.possible_agents}

    def observation_space(self, agent: str) -> Any:
        return self.spaces[agent]

    def action_space(self, agent: str) -> Any:
        return self.choices[agent]

    def observe(self, agent: str) -> Any:
        return np.array([self.possible_agents.index(agent), self.steps, self.seed % 1000], np.float32)

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        self.steps, self.seed = 0, seed or 0
        self.agents = [agent for index, agent in enumerate(self.possible_agents) if index not in self.late]
        return {agent: self.observe(agent) for agent in self.agents}, {agent: {} for agent in self.agents}

    def step(self, actions: dict[str, Any]) -> Any:
        assert set(actions) == set(self.agents)
        self.received.append(actions)
        self.steps += 1
        agents = list(self.agents)
        over = {a: self.steps >= self.lives[self.possible_agents.index(a)] for a in agents}
        cut = {a: self.possible_agents.index(a) in self.cut for a in agents}
        born = [self.possible_agents[index] for index, at in self.late.items() if at == self.steps]
        self.agents = [agent for agent in agents if not over[agent]] + born
        seen = agents + born
        return (
            {agent: self.observe(agent) for agent in seen},
            {agent: float(self.possible_agents.index(agent) + 1) for agent in agents} | dict.fromkeys(born, 0.0),
            {agent: over[agent] and not cut[agent] for agent in agents} | dict.fromkeys(born, False),
            {agent: over[agent] and cut[agent] for agent in agents} | dict.fromkeys(born, False),
            {agent: {} for agent in seen},
        )

    def close(self) -> None:
        pass


class Mixed(ParallelEnv):
    """Two agents of the given spaces; observations are random but seeded; five steps."""

    metadata = {"name": "mixed"}  # noqa: RUF012
    render_mode = None

    def __init__(self, observations: dict[str, Any], actions: dict[str, Any], info_masks: dict[str, Any] | None = None):
        self.seen, self.choices, self.info_masks = observations, actions, info_masks or {}
        self.possible_agents = list(observations)
        self.agents: list[str] = []
        self.received: list[dict[str, Any]] = []

    def observation_space(self, agent: str) -> Any:
        return self.seen[agent]

    def action_space(self, agent: str) -> Any:
        return self.choices[agent]

    def _results(self) -> Any:
        observations = {agent: self.seen[agent].sample() for agent in self.possible_agents}
        for observation in observations.values():
            if isinstance(observation, dict) and "action_mask" in observation:
                observation["action_mask"] = np.ones_like(observation["action_mask"])
                observation["action_mask"][self.steps % 2] = 0
        infos = {
            agent: {"action_mask": self.info_masks[agent]} if agent in self.info_masks else {}
            for agent in self.possible_agents
        }
        return observations, infos

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        for index, space in enumerate(self.seen.values()):
            space.seed((seed or 0) + index)
        self.steps = 0
        self.agents = list(self.possible_agents)
        return self._results()

    def step(self, actions: dict[str, Any]) -> Any:
        for agent, action in actions.items():
            assert self.choices[agent].contains(action), (agent, action)
        self.received.append(actions)
        self.steps += 1
        observations, infos = self._results()
        over = self.steps >= 5
        agents = list(self.agents)
        if over:
            self.agents = []
        return (
            observations,
            dict.fromkeys(agents, 0.5),
            dict.fromkeys(agents, over),
            dict.fromkeys(agents, False),
            infos,
        )

    def close(self) -> None:
        pass


class Relay(AECEnv):
    """Three agents in turn for ``turns`` turns. Each turn pays 1 to the next agent, which is not the one acting.

    Agent ``b`` is terminated after its second turn; at the end the others are truncated.
    """

    metadata = {"name": "relay", "is_parallelizable": False}  # noqa: RUF012
    render_mode = None

    def __init__(self, turns: int = 9) -> None:
        super().__init__()
        self.turns = turns
        self.possible_agents = ["a", "b", "c"]
        self.space = spaces.Box(-1, 100, (2,), np.float32)
        self.choice = spaces.Discrete(2)

    def observation_space(self, agent: str) -> Any:
        return self.space

    def action_space(self, agent: str) -> Any:
        return self.choice

    def observe(self, agent: str) -> Any:
        return np.array([self.possible_agents.index(agent), self.turn], np.float32)

    def reset(self, seed: int | None = None, options: Any = None) -> None:
        self.turn = 0
        self.agents = list(self.possible_agents)
        self.rewards = dict.fromkeys(self.agents, 0.0)
        self._cumulative_rewards = dict.fromkeys(self.agents, 0.0)
        self.terminations = dict.fromkeys(self.agents, False)
        self.truncations = dict.fromkeys(self.agents, False)
        self.infos = {agent: {} for agent in self.agents}
        self.taken = dict.fromkeys(self.agents, 0)
        self.agent_selection = "a"

    def step(self, action: Any) -> None:
        agent = self.agent_selection
        if self.terminations[agent] or self.truncations[agent]:
            self._was_dead_step(action)
            return
        self.turn += 1
        self.taken[agent] += 1
        following = self.agents[(self.agents.index(agent) + 1) % len(self.agents)]
        self.rewards = dict.fromkeys(self.agents, 0.0)
        self.rewards[following] = 1.0
        self._accumulate_rewards()
        self.agent_selection = following
        if agent == "b" and self.taken["b"] == 2:
            self.terminations["b"] = True
        if self.turn >= self.turns:
            self.truncations = {name: not self.terminations[name] for name in self.agents}
        self._deads_step_first()

    def close(self) -> None:
        pass
