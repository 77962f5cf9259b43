"""One copy of a batched MPE task as a PettingZoo environment."""

from __future__ import annotations

import secrets
from typing import Any, cast

import gymnasium.spaces
import numpy as np
import torch
from pettingzoo import ParallelEnv

from marl.core import EnvironmentRequest
from marl.envs.mpe.environment import BatchedMPE
from marl.envs.mpe.factory import make_task
from marl.envs.mpe.task import Task
from marl.errors import InputError
from marl.specs import ActionSpec, ContinuousActions, DiscreteActions
from marl.types import FinalStep, TimeStep

Array = np.ndarray[Any, np.dtype[Any]]


class MPEParallelEnv(ParallelEnv[str, Array, Any]):  # type: ignore[misc,unused-ignore]
    """One episode after the other of one MPE task; spaces, rewards and endings are mpe2's, drawing is not offered.

    Args:
        task: the task.
    """

    def __init__(self, task: Task) -> None:
        if task.render_mode is not None:
            raise InputError(f"batched {task.name} does not draw; to render, make mpe2.{task.name} itself")
        self.task = task
        self.metadata = {"name": task.name, "render_modes": [], "is_parallelizable": True}
        self.render_mode = None
        self._batch = self._make(secrets.randbits(31))
        self.possible_agents = [agent.name for agent in task.layout().agents]
        self.agents: list[str] = []
        groups = {agent: self._batch.spec.group(agent) for agent in self.possible_agents}
        self.observation_spaces = {agent: self._box(group.observation.shape) for agent, group in groups.items()}
        self.action_spaces = {agent: self._controls(group.action) for agent, group in groups.items()}
        self.state_space = self._box(cast("Any", self._batch.spec.state).shape)
        self._state = np.zeros(self.state_space.shape, dtype=np.float32)

    def observation_space(self, agent: str) -> gymnasium.spaces.Space[Any]:
        """The same space object at every call."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> gymnasium.spaces.Space[Any]:
        """The same space object at every call."""
        return self.action_spaces[agent]

    def state(self) -> Array:
        """All observations, in the order of ``possible_agents``."""
        return self._state

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Array], dict[str, dict[str, Any]]]:
        """Begins an episode; with a seed, the first of that seed's episodes."""
        if seed is not None:
            self._batch = self._make(seed)
        self.agents = list(self.possible_agents)
        observations = self._observations(self._batch.reset())
        return observations, {agent: {} for agent in self.agents}

    def step(
        self, actions: dict[str, Any]
    ) -> tuple[dict[str, Array], dict[str, float], dict[str, bool], dict[str, bool], dict[str, dict[str, Any]]]:
        """Takes one step; ``actions`` holds one of each agent's action space."""
        if not self.agents:
            raise InputError("the episode has ended; call reset() before the next step")
        timestep = self._batch.step(
            {group.name: self._tensor(group.name, actions) for group in self._batch.spec.groups}
        )
        steps = {agent: timestep.groups[agent] for agent in self.agents}
        observations = self._observations(timestep)
        rewards = {agent: float(step.rewards) for agent, step in steps.items()}
        terminations = {agent: bool(step.terminated) for agent, step in steps.items()}
        truncations = {agent: bool(step.truncated) for agent, step in steps.items()}
        infos: dict[str, dict[str, Any]] = {agent: {} for agent in self.agents}
        if timestep.final is not None:
            self.agents = []
        return observations, rewards, terminations, truncations, infos

    def render(self) -> None:
        """Draws nothing; ``mpe2`` draws."""

    def close(self) -> None:
        """Frees the copy."""
        self._batch.close()

    def _make(self, seed: int) -> BatchedMPE:
        request = EnvironmentRequest(num_envs=1, seed=seed, purpose="parallel", sharing="none")
        return BatchedMPE(self.task, request, compile=False)

    def _observations(self, timestep: TimeStep) -> dict[str, Array]:
        seen: TimeStep | FinalStep = timestep.final or timestep
        if seen.state is not None:
            self._state = seen.state[0].numpy().copy()
        return {agent: seen.groups[agent].observations[0, 0].numpy().copy() for agent in self.agents}

    def _tensor(self, agent: str, actions: dict[str, Any]) -> torch.Tensor:
        if agent not in actions:
            raise InputError(f"there is no action for {agent}; every agent acts at every step")
        if isinstance(self._batch.spec.group(agent).action, DiscreteActions):
            return torch.tensor(int(actions[agent])).view(1, 1)
        shares = np.asarray(actions[agent], dtype=np.float32)
        return torch.from_numpy(shares * 2 - 1).view(1, 1, -1)

    @staticmethod
    def _controls(action: ActionSpec) -> gymnasium.spaces.Space[Any]:
        if isinstance(action, ContinuousActions):
            return gymnasium.spaces.Box(np.float32(0), np.float32(1), (action.size,), np.float32)
        return gymnasium.spaces.Discrete(cast("DiscreteActions", action).num_actions)

    @staticmethod
    def _box(shape: tuple[int, ...]) -> gymnasium.spaces.Box:
        return gymnasium.spaces.Box(-np.float32(np.inf), np.float32(np.inf), shape, np.float32)


def parallel_env(task: str, **env_kwargs: Any) -> MPEParallelEnv:
    """One copy of a batched task as a PettingZoo ``ParallelEnv``.

    Args:
        task: ``mpe2.simple_spread_v3`` and the like.
        env_kwargs: arguments of mpe2's ``parallel_env``.

    Raises:
        InputError: there is no such task or argument, or a value is out of range.
    """
    return MPEParallelEnv(make_task(task, env_kwargs))
