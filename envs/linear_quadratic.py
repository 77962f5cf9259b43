"""A linear-quadratic team task for continuous control, whose optimum is known in closed form.

A point moves with velocity in D dimensions; n agents push it, each along its own direction, and the team pays for
distance, velocity and effort over a finite horizon:

    x[t+1] = A x[t] + B u[t] + w[t],    w ~ N(0, noise² I),    cost[t] = x[t]' Q x[t] + u[t]' R u[t]

Every agent chooses one component of u and receives -cost / n, so an episode's return summed over agents is minus the
team's cost. The optimum is linear in x, u[t] = -K[t] x[t], with gains by the Riccati recursion (Bertsekas 2017,
"Dynamic programming and optimal control", volume 1, section 3.1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray
from pettingzoo import ParallelEnv

from marl.errors import InputError

Matrix = NDArray[np.float64]
Vector = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearQuadraticTask:
    """The task's matrices."""

    A: Matrix
    """(S, S): the dynamics of the state without forces."""
    B: Matrix
    """(S, n): the effect of each agent's force on the state."""
    Q: Matrix
    """(S, S): cost of the state."""
    R: Matrix
    """(n, n): cost of the forces."""
    noise: float
    """Standard deviation of what is added to each component of the state."""
    horizon: int
    """Steps an episode, T."""
    start: float
    """Components of the first state are uniform in [-start, start]."""


def make_task(
    num_agents: int = 3, *, dimensions: int = 2, horizon: int = 25, noise: float = 0.0, start: float = 1.0
) -> LinearQuadraticTask:
    """A point mass in ``dimensions`` dimensions, pushed by agents along directions spread over a half turn.

    Args:
        num_agents: number of agents, n.
        dimensions: 1 or 2; the state is (position, velocity), S = 2 * dimensions.
        horizon: steps an episode.
        noise: standard deviation of the disturbance of each component of the state.
        start: components of the first state are uniform in [-start, start].

    Raises:
        InputError: an argument is out of its range.
    """
    if num_agents < 1 or dimensions not in (1, 2) or horizon < 1 or noise < 0 or start < 0:
        raise InputError(
            "the linear-quadratic task needs at least 1 agent and 1 step, 1 or 2 dimensions, and noise and start "
            f"that are not negative; not {num_agents} agents, {horizon} steps, {dimensions} dimensions, "
            f"noise {noise}, start {start}"
        )
    interval, eye, zero = 0.2, np.eye(dimensions), np.zeros((dimensions, dimensions))
    angles = np.pi * np.arange(num_agents) / num_agents
    directions = np.stack((np.cos(angles), np.sin(angles))) if dimensions == 2 else np.ones((1, num_agents))
    return LinearQuadraticTask(
        A=np.block([[eye, interval * eye], [zero, 0.9 * eye]]),
        B=np.concatenate((np.zeros_like(directions), interval * directions)),
        Q=np.diag(np.repeat((1.0, 0.1), dimensions)),
        R=0.1 * np.eye(num_agents),
        noise=noise,
        horizon=horizon,
        start=start,
    )


def optimal_gains(task: LinearQuadraticTask) -> tuple[Matrix, Matrix]:
    """The Riccati recursion.

    Returns:
        gains: (T, n, S), the optimal forces at step t are ``-gains[t] @ x``.
        values: (T+1, S, S), the cost to go from step t on is ``x' values[t] x`` and what noise adds.
    """
    values = np.zeros((task.horizon + 1, *task.A.shape))
    gains = np.zeros((task.horizon, *task.B.T.shape))
    for t in reversed(range(task.horizon)):
        following = values[t + 1]
        gains[t] = np.linalg.solve(task.R + task.B.T @ following @ task.B, task.B.T @ following @ task.A)
        values[t] = task.Q + task.A.T @ following @ (task.A - task.B @ gains[t])
    return gains, values


def optimal_return(task: LinearQuadraticTask, state: NDArray[Any] | None = None) -> float:
    """The best expected undiscounted return, summed over agents: minus the least expected cost.

    Args:
        task: the task.
        state: (S,) the first state; the default is the mean over first states.
    """
    _, values = optimal_gains(task)
    cost = task.noise**2 * np.trace(values[1:], axis1=1, axis2=2).sum()
    if state is None:
        # A uniform number in [-s, s] has variance s² / 3.
        return -float(cost + np.trace(values[0]) * task.start**2 / 3)
    return -float(cost + state @ values[0] @ state)


def force_bound(task: LinearQuadraticTask) -> float:
    """Bound of every agent's action: 1.5 times the largest force of the optimum without noise, so it never binds."""
    gains, _ = optimal_gains(task)
    largest, reached = 0.0, np.eye(len(task.A))
    for gain in gains:
        # Forces are linear in the first state, so the largest are found at corners of its box.
        largest = max(largest, task.start * float(np.abs(gain @ reached).sum(axis=1).max()))
        reached = (task.A - task.B @ gain) @ reached
    return 1.5 * largest or 1.0


class LinearQuadratic(ParallelEnv):  # type: ignore[misc]  # PettingZoo is untyped
    """The task as an environment.

    All agents observe the state and the part of the episode that is left, (S + 1,) float32: what the optimum
    depends on. ``state()`` is the same. Actions are (1,) float32 forces. After the horizon the task is over
    (terminated, not truncated: the horizon is part of the task).
    """

    def __init__(self, task: LinearQuadraticTask) -> None:
        self.task = task
        self.metadata = {"name": "linear_quadratic", "render_modes": [], "is_parallelizable": True}
        self.render_mode = None
        self._bound = force_bound(task)
        size, num_agents = task.B.shape
        self.possible_agents = [f"agent_{i}" for i in range(num_agents)]
        self.agents: list[str] = []
        self.state_space = Box(-np.inf, np.inf, (size + 1,), np.float32)
        self.observation_spaces = {
            agent: Box(-np.inf, np.inf, (size + 1,), np.float32) for agent in self.possible_agents
        }
        self.action_spaces = {agent: Box(-self._bound, self._bound, (1,), np.float32) for agent in self.possible_agents}
        self._generator = np.random.default_rng()
        self._x: Matrix = np.zeros(size)
        self._time = 0

    def observation_space(self, agent: str) -> Box:
        """The agent's observations."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> Box:
        """The agent's forces."""
        return self.action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Vector], dict[str, dict[str, Any]]]:
        """Draws the first state."""
        if seed is not None:
            self._generator = np.random.default_rng(seed)
        self.agents = list(self.possible_agents)
        self._x = self._generator.uniform(-self.task.start, self.task.start, len(self._x))
        self._time = 0
        return self._observations(), {agent: {} for agent in self.agents}

    def step(
        self, actions: Mapping[str, NDArray[Any]]
    ) -> tuple[dict[str, Vector], dict[str, float], dict[str, bool], dict[str, bool], dict[str, dict[str, Any]]]:
        """Pays for the present state and the forces, and moves on. Forces are clipped to their bounds."""
        task, agents = self.task, self.agents
        forces = np.array([float(np.asarray(actions[agent]).reshape(())) for agent in agents])
        forces = np.clip(forces, -self._bound, self._bound)
        cost = self._x @ task.Q @ self._x + forces @ task.R @ forces
        self._x = task.A @ self._x + task.B @ forces
        if task.noise:
            self._x += self._generator.normal(0.0, task.noise, len(self._x))
        self._time += 1
        over = self._time >= task.horizon
        observations = self._observations()
        self.agents = [] if over else agents
        return (
            observations,
            {agent: -float(cost) / len(agents) for agent in agents},
            dict.fromkeys(agents, over),
            dict.fromkeys(agents, False),
            {agent: {} for agent in agents},
        )

    def state(self) -> Vector:
        """(S + 1,) float32: the state, and the part of the episode that is left."""
        left = 1.0 - self._time / self.task.horizon
        return np.append(self._x, left).astype(np.float32)

    def render(self) -> None:
        """There is nothing to show."""

    def close(self) -> None:
        """Nothing is held."""

    def _observations(self) -> dict[str, Vector]:
        shown = self.state()
        return {agent: shown.copy() for agent in self.possible_agents}


def linear_quadratic(
    *, num_agents: int = 3, dimensions: int = 2, horizon: int = 25, noise: float = 0.0, start: float = 1.0
) -> LinearQuadratic:
    """The environment; arguments as in ``make_task``."""
    return LinearQuadratic(make_task(num_agents, dimensions=dimensions, horizon=horizon, noise=noise, start=start))
