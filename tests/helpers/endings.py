"""A family of small games, one for each way in which lives end, with the exact values of everything that is seen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from gymnasium import spaces
from pettingzoo import AECEnv, ParallelEnv

Ending = Literal["terminated", "truncated"]
AGENTS = ("agent_0", "agent_1")
ALTERNATIVES = 3


@dataclass(frozen=True, kw_only=True)
class Game:
    """Two agents, each paid the same at every step that it takes. Actions change nothing.

    What is seen is a number; whoever is gone sees what it saw last.
    """

    rewards: tuple[float, float]
    lives: tuple[int, int]
    """Steps that each agent takes."""
    endings: tuple[Ending, Ending]
    seen: tuple[tuple[int, ...], tuple[int, ...]]
    """By agent, at each step of its life, and last."""
    legal: tuple[bool, ...] = (True,) * ALTERNATIVES
    more: tuple[int, int] = (0, 0)
    """Further steps in every other episode, which look like the last ones: a memory cannot tell when it ends."""


def games(*, team: bool) -> dict[str, Game]:
    """The family, where each agent learns from its own reward, or all from the sum.

    What is seen as an agent is cut off is seen before too, by agents that act: its value is known. An agent of a team
    that is gone must see that, so that it can tell the value of the team with it from that without it.
    """
    stays = (0, 0)
    gone = (0, 2)
    after = (0, 1, 1, 1)
    return {
        "all live": Game(
            rewards=(1.0, 2.0), lives=(2, 2), endings=("terminated", "terminated"), seen=((0, 1, 1), (0, 1, 1))
        ),
        "one dies": Game(
            rewards=(1.0, 2.0), lives=(1, 3), endings=("terminated", "truncated"), seen=(gone, after), more=(0, 4)
        ),
        "one is cut off": Game(
            rewards=(2.0, 3.0),
            lives=(1, 3),
            endings=("truncated", "truncated"),
            seen=(gone, after) if team else (stays, (0, 0, 0, 0)),
            more=(0, 4) if team else (4, 4),
        ),
        "masks at the end": Game(
            rewards=(-1.0, -2.0),
            lives=(2, 2),
            endings=("truncated", "truncated"),
            seen=((0, 0, 0), (0, 0, 0)),
            legal=(True, True, False),
            more=(4, 4),
        ),
    }


_NUMBERS = 3
"""Of what is seen in one game."""


def exact_values(game: Game, *, team: bool, discount: float, entropy: float = 0.0) -> dict[tuple[int, int], float]:
    """The value of every decision, by agent and what it sees; for a team also those of agents that are gone.

    Args:
        game: one of the family.
        team: whether agents learn from the sum of rewards.
        discount: γ.
        entropy: weight of a uniform policy's entropy over legal actions, which an agent earns at each later decision.
    """
    bonus = entropy * float(np.log(sum(game.legal)))
    values: dict[tuple[int, int], float] = {}
    for _ in range(200):
        for agent, time, reward in _decisions(game, team=team):
            life, seen = game.lives[agent], game.seen[agent]
            last = max(game.lives) if team else life
            follows = seen[min(time + 1, life)]
            over = time + 1 == last
            cut = any(end == "truncated" for end, lives in zip(game.endings, game.lives, strict=True) if lives == last)
            lost = over and not (cut if team else game.endings[agent] == "truncated")
            # At the end of all, whoever was cut off with it would have acted; the dead never do.
            acts = time + 1 < life or (time + 1 == life and game.endings[agent] == "truncated" and (over or not team))
            following = 0.0 if lost else values.get((agent, follows), 0.0) + bonus * acts
            values[agent, seen[min(time, life)]] = reward + discount * following
    return values


def _decisions(game: Game, *, team: bool) -> Iterator[tuple[int, int, float]]:
    """Agent, time and reward of each decision, and of the places of a team's agents that are gone."""
    for agent, life in enumerate(game.lives):
        for time in range(max(game.lives) if team else life):
            paid = [reward for reward, lives in zip(game.rewards, game.lives, strict=True) if time < lives]
            yield agent, time, sum(paid) if team else game.rewards[agent]


class _Rules:
    """What both forms share: spaces, and what is seen in the game of an episode, which its seed chooses."""

    render_mode = None

    def __init__(self, *, team: bool, continuous: bool = False) -> None:
        self.family = list(games(team=team).values())[: 3 if continuous else 4]
        self.possible_agents = list(AGENTS)
        self.agents: list[str] = []
        box = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.choice = box if continuous else spaces.Discrete(ALTERNATIVES)
        seen = spaces.Box(0.0, 1.0, (self.width,), np.float32)
        self.space = seen
        if not continuous:
            mask = spaces.Box(0, 1, (ALTERNATIVES,), np.int8)
            self.space = spaces.Dict({"observation": seen, "action_mask": mask})
        self.masked = not continuous
        self.taken, self.lives = [0, 0], (0, 0)
        self.number = 0

    def observation_space(self, agent: str) -> Any:
        return self.space

    def action_space(self, agent: str) -> Any:
        return self.choice

    @property
    def game(self) -> Game:
        return self.family[self.number]

    def begin(self, seed: int | None) -> None:
        longer, self.number = divmod(seed or 0, len(self.family))
        self.taken = [0, 0]
        first, second = zip(self.game.lives, self.game.more, strict=True)
        self.lives = (first[0] + longer % 2 * first[1], second[0] + longer % 2 * second[1])
        self.agents = list(AGENTS)

    def code(self, agent: int) -> int:
        return self.game.seen[agent][min(self.taken[agent], self.game.lives[agent])]

    @property
    def width(self) -> int:
        return len(self.family) * _NUMBERS

    def look(self, agent: str) -> Any:
        seen = np.zeros(self.width, np.float32)
        seen[self.number * _NUMBERS + self.code(AGENTS.index(agent))] = 1.0
        return seen

    def observe(self, agent: str) -> Any:
        if not self.masked:
            return self.look(agent)
        return {"observation": self.look(agent), "action_mask": np.array(self.game.legal, np.int8)}

    def state(self) -> Any:
        """What agent_1 sees, who is never gone before the end."""
        return self.look(AGENTS[1])

    def play(self, agent: str, action: Any) -> None:
        assert not self.masked or self.game.legal[action], f"{agent} moved illegally"
        self.taken[AGENTS.index(agent)] += 1

    def ends(self, agent: str, how: Ending) -> bool:
        index = AGENTS.index(agent)
        return self.taken[index] >= self.lives[index] and self.game.endings[index] == how

    def close(self) -> None:
        pass


class ParallelEndings(_Rules, ParallelEnv):
    """The games of one family, all agents at once; each episode plays one of them and shows which."""

    metadata = {"name": "endings"}  # noqa: RUF012

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        self.begin(seed)
        return {agent: self.observe(agent) for agent in self.agents}, {agent: {} for agent in self.agents}

    def step(self, actions: dict[str, Any]) -> Any:
        acted = list(self.agents)
        for agent in acted:
            self.play(agent, actions[agent])
        terminated = {agent: self.ends(agent, "terminated") for agent in acted}
        truncated = {agent: self.ends(agent, "truncated") for agent in acted}
        self.agents = [agent for agent in acted if not terminated[agent] and not truncated[agent]]
        rewards = {agent: self.game.rewards[AGENTS.index(agent)] for agent in acted}
        return {a: self.observe(a) for a in acted}, rewards, terminated, truncated, {agent: {} for agent in acted}


class TurnEndings(_Rules, AECEnv):
    """The same games, agents in turn."""

    metadata = {"name": "endings", "is_parallelizable": False}  # noqa: RUF012

    def __init__(self, *, team: bool) -> None:
        AECEnv.__init__(self)
        _Rules.__init__(self, team=team)

    def reset(self, seed: int | None = None, options: Any = None) -> None:
        self.begin(seed)
        self.rewards = dict.fromkeys(self.agents, 0.0)
        self._cumulative_rewards = dict.fromkeys(self.agents, 0.0)
        self.terminations = dict.fromkeys(self.agents, False)
        self.truncations = dict.fromkeys(self.agents, False)
        self.infos = {agent: {} for agent in self.agents}
        self.agent_selection = AGENTS[0]

    def step(self, action: Any) -> None:
        agent = self.agent_selection
        if self.terminations[agent] or self.truncations[agent]:
            self._was_dead_step(action)
            return
        self.play(agent, action)
        self.rewards = dict.fromkeys(self.agents, 0.0)
        self.rewards[agent] = self.game.rewards[AGENTS.index(agent)]
        self._accumulate_rewards()
        self.terminations[agent] = self.ends(agent, "terminated")
        self.truncations[agent] = self.ends(agent, "truncated")
        others = [other for other in self.agents if other != agent and not self.is_over(other)]
        self.agent_selection = others[0] if others else agent
        self._deads_step_first()

    def is_over(self, agent: str) -> bool:
        return self.terminations[agent] or self.truncations[agent]
