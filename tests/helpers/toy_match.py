"""A small game for tournaments, with any number of sides, and players of every kind, good and bad."""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from pettingzoo import ParallelEnv

from marl.policy import Decision, Policy
from marl.specs import GroupSpec
from marl.types import GroupStep


class Bids(ParallelEnv):
    """Everybody bids 0, 1, 2 or (where legal) 3; a prize that only the seed decides goes to the highest single bid.

    The bidders' numbers are shown to them; bid 3 is never legal. ``cost`` is what each bid costs a unit.
    """

    metadata = {"name": "bids", "render_modes": []}  # noqa: RUF012 (PettingZoo's convention)
    render_mode = None

    def __init__(
        self, bidders: int = 2, rounds: int = 4, endless: bool = False, teams: bool = False, cost: float = 0.0
    ) -> None:
        names = ("wolf_0", "wolf_1", "hare_0", "hare_1") if teams else [f"bidder_{i}" for i in range(bidders)]
        self.possible_agents = list(names)
        self.agents: list[str] = []
        self._rounds, self._endless, self._cost = rounds, endless, cost
        # Hares see less than wolves, so the sides are not alike.
        self._sizes = {name: 2 if name.startswith("hare") else 3 for name in names}

    def observation_space(self, agent: str) -> Any:
        return spaces.Box(-10, 10, (self._sizes[agent],), np.float32)

    def action_space(self, agent: str) -> Any:
        return spaces.Discrete(4)

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        self.agents = list(self.possible_agents)
        self._random = np.random.default_rng(seed)
        self._time = 0
        return self._see(), self._infos()

    def step(self, actions: dict[str, Any]) -> Any:
        assert all(0 <= action < 3 for action in actions.values()), "an illegal bid reached the game"
        self._time += 1
        prize = float(self._random.integers(1, 4))
        bids = list(actions.values())
        rewards = {
            agent: prize * (bid == max(bids) and bids.count(bid) == 1) - self._cost * bid
            for agent, bid in actions.items()
        }
        over = self._time >= self._rounds and not self._endless
        ends = dict.fromkeys(self.agents, over)
        seen, infos = self._see(), self._infos()
        if over:
            self.agents = []
        return seen, rewards, ends, dict.fromkeys(ends, False), infos

    def _see(self) -> dict[str, Any]:
        common = [self._time / 4, float(self._random.integers(5)), 1.0]
        return {agent: np.array(common[: self._sizes[agent]], np.float32) for agent in self.agents}

    def _infos(self) -> dict[str, Any]:
        return {agent: {"action_mask": np.array([1, 1, 1, 0], np.int8)} for agent in self.agents}


def make(**settings: Any) -> Bids:
    return Bids(**settings)


class High:
    """Always bids 2."""

    def act(self, agent: str, observation: Any, action_mask: Any) -> int:
        return 2


class Low:
    """Always bids 0."""

    def act(self, agent: str, observation: Any, action_mask: Any) -> int:
        return 0


class Slow:
    """Bids at random, in a millisecond."""

    def reset(self, agents: list[str], seed: int) -> None:
        self._random = np.random.default_rng(seed)

    def act(self, agent: str, observation: Any, action_mask: Any) -> int:
        time.sleep(0.001)
        return int(self._random.integers(3))


class Crash:
    """Fails in its second decision of a game."""

    def reset(self, agents: list[str], seed: int) -> None:
        self._decisions = 0

    def act(self, agent: str, observation: Any, action_mask: Any) -> int:
        self._decisions += 1
        if self._decisions == 2:
            raise RuntimeError("out of\nideas")
        return 2


class Quit:
    """Ends the process, or would."""

    def act(self, agent: str, observation: Any, action_mask: Any) -> int:
        sys.exit(3)


class Stillborn:
    def __init__(self) -> None:
        raise OSError("no weights")

    def act(self, agent: str, observation: Any, action_mask: Any) -> int:
        return 0


class Sleeper:
    """Thinks too long, and catches whatever wakes it."""

    def act(self, agent: str, observation: Any, action_mask: Any) -> int:
        try:
            time.sleep(30)
        except Exception:
            time.sleep(30)
        return 2


class Cheat:
    """Bids what is not legal."""

    def act(self, agent: str, observation: Any, action_mask: Any) -> int:
        assert list(action_mask) == [True, True, True, False]
        return 3


class Babble:
    def act(self, agent: str, observation: Any, action_mask: Any) -> Any:
        return "two"


class Batched(Policy):
    """A policy of the library's kind; fails for games in which the common number is 0 if it is told to."""

    fails = False

    def __init__(self, group: GroupSpec) -> None:
        self._group = group

    def act(self, step: GroupStep, first: Any, state: Any, uniforms: Any) -> Decision:
        common = step.observations[..., 1]
        if self.fails and bool(((common == 0) & step.active).any()):
            raise ValueError("zero")
        return Decision(actions=(common.long() % 3), extras={}, state=None)


class Brittle(Batched):
    fails = True


class Counting(Policy):
    """Recurrent: bids the number of steps that it has seen, modulo 3."""

    def __init__(self, group: GroupSpec) -> None:
        self._size = group.size

    def initial_state(self, num_envs: int) -> Any:
        return torch.zeros(num_envs, self._size, 1)

    def act(self, step: GroupStep, first: Any, state: Any, uniforms: Any) -> Decision:
        state = torch.where(first.view(-1, 1, 1), torch.zeros_like(state), state) + 1
        return Decision(actions=state[..., 0].long() % 3, extras={}, state=state)


class NoPlayer:
    pass
