"""Gymnasium environments with tuples for agents (level-based foraging, robot warehouse) as PettingZoo ParallelEnvs."""

from __future__ import annotations

from typing import Any

from gymnasium import spaces
from pettingzoo import ParallelEnv

from marl.errors import InputError


class GymnasiumTupleEnv(ParallelEnv):  # type: ignore[misc]  # PettingZoo is not typed here
    """One agent for each entry of an environment's tuple spaces, called ``agent_0``, ``agent_1``, …

    These environments report the end of an episode for all agents at once, and both the suites count a step limit
    of their own as an end (``terminated``); set ``time_limit`` to their limit to have it reported as truncation.

    Args:
        environment: a gymnasium environment whose action and observation spaces are Tuples; rewards are one number
            an agent, or one number for all.
        time_limit: an end at this step or later is a truncation.

    Raises:
        InputError: its spaces are not tuples of one length.
    """

    def __init__(self, environment: Any, *, time_limit: int | None = None) -> None:
        actions, observations = environment.action_space, environment.observation_space
        if not (
            isinstance(actions, spaces.Tuple)
            and isinstance(observations, spaces.Tuple)
            and len(actions) == len(observations)
        ):
            raise InputError(f"{environment} has no tuple of spaces for its agents, so it is not multi-agent")
        self._environment = environment
        self._time_limit = time_limit
        self._steps = 0
        self.metadata = {"name": str(environment), **environment.metadata}
        self.render_mode = environment.render_mode
        self.possible_agents = [f"agent_{index}" for index in range(len(actions))]
        self.agents: list[str] = []
        self.observation_spaces = dict(zip(self.possible_agents, observations, strict=True))
        self.action_spaces = dict(zip(self.possible_agents, actions, strict=True))

    def observation_space(self, agent: str) -> spaces.Space[Any]:
        """The agent's entry of the observation spaces."""
        space: spaces.Space[Any] = self.observation_spaces[agent]
        return space

    def action_space(self, agent: str) -> spaces.Space[Any]:
        """The agent's entry of the action spaces."""
        space: spaces.Space[Any] = self.action_spaces[agent]
        return space

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Begins an episode; returns observations and infos by agent."""
        observations, _ = self._environment.reset(seed=seed, options=options)
        self.agents = list(self.possible_agents)
        self._steps = 0
        return dict(zip(self.agents, observations, strict=True)), {agent: {} for agent in self.agents}

    def step(self, actions: dict[str, Any]) -> Any:
        """Takes a step; returns observations, rewards, terminations, truncations and infos by agent."""
        agents = self.agents
        observations, rewards, ended, cut, _ = self._environment.step(tuple(actions[agent] for agent in agents))
        self._steps += 1
        if ended and self._time_limit is not None and self._steps >= self._time_limit:
            ended, cut = False, True
        shares = rewards if hasattr(rewards, "__len__") else [rewards / len(agents)] * len(agents)
        if ended or cut:
            self.agents = []
        return (
            dict(zip(agents, observations, strict=True)),
            {agent: float(reward) for agent, reward in zip(agents, shares, strict=True)},
            dict.fromkeys(agents, bool(ended)),
            dict.fromkeys(agents, bool(cut)),
            {agent: {} for agent in agents},
        )

    def render(self) -> Any:
        """Renders the environment."""
        return self._environment.render()

    def close(self) -> None:
        """Closes the environment."""
        self._environment.close()
