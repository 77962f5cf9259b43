"""Small environments with untidy habits; each is one class whose docstring says what it does and pays."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from pettingzoo import AECEnv, ParallelEnv

_SIGHT = spaces.Box(-100, 100, (4,), np.float32)
_MASKED = spaces.Dict({"observation": _SIGHT, "action_mask": spaces.Box(0, 1, (3,), np.int8)})


class Tidy(ParallelEnv):
    """Two agents are paid 1 and 2 in each of five steps."""

    metadata = {"name": "tidy", "render_modes": []}  # noqa: RUF012
    render_mode = None
    names: tuple[Any, ...] = ("a", "b")
    length = 5
    space: Any = _SIGHT
    choice: Any = spaces.Discrete(3)

    def __init__(self) -> None:
        self.possible_agents = list(self.names)
        self.agents: list[Any] = []

    def observation_space(self, agent: Any) -> Any:
        return self.space

    def action_space(self, agent: Any) -> Any:
        return self.choice

    def see(self, agent: Any) -> Any:
        return np.full(4, self.time, np.float32)

    def pay(self, agent: Any, action: Any) -> Any:
        return float(self.names.index(agent) + 1)

    def info(self, agent: Any) -> Any:
        return {}

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        self.agents, self.time = list(self.possible_agents), 0
        return {a: self.see(a) for a in self.agents}, {a: self.info(a) for a in self.agents}

    def step(self, actions: Any) -> Any:
        self.time += 1
        agents, over = list(self.agents), self.time >= self.length
        if over:
            self.agents = []
        return (
            {a: self.see(a) for a in agents},
            {a: self.pay(a, actions[a]) for a in agents},
            dict.fromkeys(agents, over),
            dict.fromkeys(agents, False),
            {a: self.info(a) for a in agents},
        )

    def close(self) -> None:
        pass


class Masked(Tidy):
    """Action 2 alone is legal, which infos say; whoever plays another is fined 1, all others get nothing."""

    since = 0

    def info(self, agent: Any) -> Any:
        return {"action_mask": np.array([0, 0, 1], np.int8)} if self.time >= self.since else {}

    def pay(self, agent: Any, action: Any) -> Any:
        return 0.0 if action == 2 else -1.0


class MaskedLate(Masked):
    """The masks of infos begin with an episode's fifth step of fifty."""

    since, length = 5, 50

    def pay(self, agent: Any, action: Any) -> Any:
        return 0.0


class MaskedLists(Tidy):
    """Masks in observations are lists, and the one legal action pays 1."""

    space = _MASKED

    def see(self, agent: Any) -> Any:
        return {"observation": [0.0] * 4, "action_mask": [False, True, False]}

    def pay(self, agent: Any, action: Any) -> Any:
        return float(action == 1)


class MaskLeftOut(Tidy):
    """From the third step on observations lack the mask that the space promises."""

    space = _MASKED
    later: dict[str, Any] = {}  # noqa: RUF012

    def see(self, agent: Any) -> Any:
        mask = {"action_mask": np.ones(3, np.int8)} if self.time < 3 else self.later
        return {"observation": np.zeros(4, np.float32), **mask}


class MaskIsNone(MaskLeftOut):
    """From the third step on masks are None."""

    later = {"action_mask": None}  # noqa: RUF012


class MaskIsZero(MaskLeftOut):
    """From the third step on nothing is legal."""

    later = {"action_mask": np.zeros(3, np.int8)}  # noqa: RUF012


class MaskUnpromised(Tidy):
    """Observations hold a mask that the space does not promise."""

    space = spaces.Dict({"observation": _SIGHT})

    def see(self, agent: Any) -> Any:
        return {"observation": np.zeros(4, np.float32), "action_mask": np.ones(3, np.int8)}


class MaskLengths(Tidy):
    """From the eighth step on masks of infos have 2 and 4 entries, where there are 3 actions."""

    length = 20

    def info(self, agent: Any) -> Any:
        size = 3 if self.time < 8 else 2 if agent == "a" else 4
        return {"action_mask": np.ones(size, np.int8)}


class Lengths(Tidy):
    """After the first, observations have 3 and 5 entries, where the space says 4."""

    def see(self, agent: Any) -> Any:
        return np.zeros(4 if self.time == 0 else 3 if agent == "a" else 5, np.float32)


class Heights(Tidy):
    """After the first, pictures have 3 and 5 rows, where the space says 4."""

    space = spaces.Box(0, 255, (4, 4, 3), np.uint8)

    def see(self, agent: Any) -> Any:
        return np.zeros((4 if self.time == 0 else 3 if agent == "a" else 5, 4, 3), np.uint8)


class NoInfos(Tidy):
    """Steps return None for infos."""

    def step(self, actions: Any) -> Any:
        return (*super().step(actions)[:4], None)


class OldResults(Tidy):
    """Results as before PettingZoo 1.22: steps return four, resets observations only."""

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        return super().reset(seed, options)[0]

    def step(self, actions: Any) -> Any:
        observed, rewards, ended, _, infos = super().step(actions)
        return observed, rewards, ended, infos


class OldSteps(OldResults):
    """Steps return four results, resets two."""

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        return Tidy.reset(self, seed, options)


class NoSeed(Tidy):
    """Resets take no seed."""

    def reset(self, options: Any = None) -> Any:  # type: ignore[override]
        return super().reset(None, options)


class AllKey(Tidy):
    """Endings have an entry for everybody together."""

    def step(self, actions: Any) -> Any:
        observed, rewards, ended, cut, infos = super().step(actions)
        return observed, rewards, {**ended, "__all__": not self.agents}, {**cut, "__all__": False}, infos


class StaysListed(Tidy):
    """Agent a is terminated by the second step, and stays in the list."""

    def step(self, actions: Any) -> Any:
        observed, rewards, ended, cut, infos = super().step(actions)
        return observed, rewards, {**ended, "a": self.time >= 2}, cut, infos


class Paid(Tidy):
    """Agent b is paid ``reward`` at the third step."""

    reward: Any = None

    def pay(self, agent: Any, action: Any) -> Any:
        return self.reward if agent == "b" and self.time == 3 else super().pay(agent, action)


class PaidNothing(Paid):
    """A reward is None."""


class PaidArray(Paid):
    """A reward is an array of two numbers."""

    reward = np.array([1.0, 2.0])


class PaidText(Paid):
    """A reward is a text."""

    reward = "1.0"


class PaidTooMuch(Paid):
    """A reward is finite, but float32 does not hold it."""

    reward = 1e39


class PaidNan(Paid):
    """A reward is NaN."""

    reward = float("nan")


class PaidNumpy(Paid):
    """A reward is a number of numpy's: b gets 1.5 instead of 2 once."""

    reward = np.float16(1.5)


class SharedArrays(Tidy):
    """All copies write observations into one array."""

    shared = np.zeros(4, np.float32)

    def see(self, agent: Any) -> Any:
        self.shared[...] = id(self) % 97
        return self.shared


class AsksForItem(Tidy):
    """Actions are asked for ``item()``; the pay is the action, from 3 to 5, less 3."""

    choice = spaces.Discrete(3, start=3)

    def pay(self, agent: Any, action: Any) -> Any:
        assert self.choice.contains(action)
        return float(0 * action.item())


class Integers(Tidy):
    """Agents are integers."""

    names = (0, 1)


class Tuples(Tidy):
    """Agents are tuples."""

    names = (("red", 0), ("red", 1))


class SameNames(Tidy):
    """Agents are the number 1 and the text "1"."""

    names = (1, "1")


class Unrelated:
    """The methods of a ParallelEnv without its class, spaces as dictionaries, no infos, no close."""

    possible_agents = ("a", "b")
    observation_spaces = dict.fromkeys(possible_agents, _SIGHT)
    action_spaces = dict.fromkeys(possible_agents, spaces.Discrete(3))

    def reset(self, seed: int | None = None) -> Any:
        self.agents, self.time = list(self.possible_agents), 0
        return dict.fromkeys(self.agents, np.zeros(4, np.float32)), {}

    def step(self, actions: Any) -> Any:
        self.time += 1
        agents, over = list(self.agents), self.time >= 5
        if over:
            self.agents = []
        observed = dict.fromkeys(agents, np.zeros(4, np.float32))
        return observed, {"a": 1.0, "b": 2.0}, dict.fromkeys(agents, over), dict.fromkeys(agents, False), {}


class Settings(Tidy):
    """A reset changes what the whole process shares, and a step relies on it."""

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        np.seterr(all="raise")
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002
        torch.manual_seed(0)
        return super().reset(seed, options)

    def step(self, actions: Any) -> Any:
        assert torch.get_default_dtype() == torch.float64
        assert not torch.is_grad_enabled()
        return super().step(actions)


class Turns(AECEnv):
    """Players 0 and 1 take two turns each: 0 is paid 1 at each of its own, 1 is paid 10 at the end."""

    metadata = {"name": "turns", "render_modes": []}  # noqa: RUF012
    render_mode = None
    names: tuple[Any, ...] = ("player_0", "player_1")
    length = 4
    choice: Any = spaces.Discrete(3)

    def __init__(self) -> None:
        super().__init__()
        self.possible_agents = list(self.names)
        self.agents = []

    def observation_space(self, agent: Any) -> Any:
        return _SIGHT

    def action_space(self, agent: Any) -> Any:
        return self.choice

    def observe(self, agent: Any) -> Any:
        return np.full(4, self.turn, np.float32)

    def info(self, agent: Any) -> Any:
        return {}

    def reset(self, seed: int | None = None, options: Any = None) -> None:
        self.agents, self.turn = list(self.names), 0
        self.rewards = dict.fromkeys(self.agents, 0.0)
        self._cumulative_rewards = dict.fromkeys(self.agents, 0.0)
        self.terminations = dict.fromkeys(self.agents, False)
        self.truncations = dict.fromkeys(self.agents, False)
        self.infos = {a: self.info(a) for a in self.agents}
        self.agent_selection = self.names[0]

    def dead(self) -> bool:
        return bool(self.terminations[self.agent_selection] or self.truncations[self.agent_selection])

    def pay(self, agent: Any, action: Any) -> None:
        if agent == self.names[0]:
            self.rewards[agent] = 1.0
        if self.turn == self.length:
            self.rewards[self.names[1]] = 10.0

    def following(self) -> Any:
        return self.names[self.turn % 2]

    def step(self, action: Any) -> None:
        if self.dead():
            self._was_dead_step(action)
            return
        agent = self.agent_selection
        self._cumulative_rewards[agent] = 0
        self._clear_rewards()
        self.turn += 1
        self.pay(agent, action)
        if self.turn == self.length:
            self.terminations = dict.fromkeys(self.agents, True)
        self.agent_selection = self.following()
        self.infos = {a: self.info(a) for a in self.agents}
        self._accumulate_rewards()

    def close(self) -> None:
        pass


class TurnsMasked(Turns):
    """Only action 2 is legal, which the mover's info says; whoever plays another is fined 1. Player 1 moves last."""

    length = 8

    def following(self) -> Any:
        return self.names[self.turn >= 5]

    def info(self, agent: Any) -> Any:
        return {"action_mask": np.array([0, 0, 1], np.int8)}

    def pay(self, agent: Any, action: Any) -> None:
        self.rewards[agent] = 0.0 if action == 2 else -1.0


class TurnsMaskedLate(TurnsMasked):
    """Player 1 gets its mask when it is to move, which is late."""

    length = 60

    def following(self) -> Any:
        return self.names[self.turn >= 50]

    def info(self, agent: Any) -> Any:
        return super().info(agent) if agent == self.names[1] and self.turn >= 50 else {}

    def pay(self, agent: Any, action: Any) -> None:
        pass


class TurnsPasses(Turns):
    """Player 0 takes three turns, then player 1 one: returns 3 and 10."""

    def following(self) -> Any:
        return self.names[self.turn >= 3]


class TurnsOnlyCumulative(Turns):
    """What is paid is added to the sums that ``last()`` shows, and never to ``rewards``."""

    def pay(self, agent: Any, action: Any) -> None:
        super().pay(agent, action)
        for name, reward in self.rewards.items():
            self._cumulative_rewards[name] += reward
        self._clear_rewards()


class TurnsOnlyAtTheEnd(TurnsOnlyCumulative):
    """As before, but nothing is paid before the end."""

    def pay(self, agent: Any, action: Any) -> None:
        if self.turn == self.length:
            self._cumulative_rewards[self.names[1]] += 10.0


class TurnsNeverCleared(Turns):
    """Rewards stay until they are overwritten, so that ``last()`` shows them twice: 4 and 10."""

    def _clear_rewards(self) -> None:
        pass


class TurnsNeverZeroed(Turns):
    """Sums are never set back, so that ``last()`` shows all of an episode; rewards are right: 2 and 10."""

    def step(self, action: Any) -> None:
        before = dict(self._cumulative_rewards)
        acts = not self.dead()
        agent = self.agent_selection
        super().step(action)
        if acts:
            self._cumulative_rewards[agent] += before[agent]


class TurnsWithoutSums(Turns):
    """No sums are kept; rewards are right: 2 and 10."""

    def _accumulate_rewards(self) -> None:
        pass


class TurnsPaidInTheGrave(Turns):
    """Player 0 dies at its first turn, and is paid 5 more by player 1's turn before it is removed."""

    def step(self, action: Any) -> None:
        if self.dead():
            self._was_dead_step(action)
            self.agent_selection = self.names[1]
            return
        self._cumulative_rewards[self.agent_selection] = 0
        self._clear_rewards()
        self.turn += 1
        if self.turn == 1:
            self.terminations[self.names[0]] = True
        elif self.turn == 2:
            self.rewards = dict.fromkeys(self.agents, 5.0)
        self.terminations[self.names[1]] = self.turn == 3
        self.agent_selection = self.names[0] if self.names[0] in self.agents and self.turn > 1 else self.names[1]
        self._accumulate_rewards()


class TurnsBonus(Turns):
    """The step that removes the dead player 0 pays 7 to player 1, after the end."""

    def step(self, action: Any) -> None:
        dead = self.dead()
        super().step(action)
        if dead:
            for agent in self.agents:
                self.rewards[agent] = 7.0
                self._cumulative_rewards[agent] += 7.0


class TurnsLegacy(Turns):
    """Player 0 dies at its first turn, and its removal pays 7 to player 1, who lives on and gets 10 at the end."""

    def step(self, action: Any) -> None:
        if self.dead():
            agent = self.agent_selection
            self._was_dead_step(action)
            if agent == self.names[0] and self.turn == 1:
                self.rewards[self.names[1]] = 7.0
                self._accumulate_rewards()
            return
        super().step(action)
        if self.turn == 1:
            self.terminations[self.names[0]] = True
            self._deads_step_first()

    def following(self) -> Any:
        return self.names[1]


class TurnsPaidNothing(Turns):
    """A reward is None."""

    def pay(self, agent: Any, action: Any) -> None:
        super().pay(agent, action)
        if self.turn == 2:
            self.rewards = dict.fromkeys(self.names, None)

    def _accumulate_rewards(self) -> None:
        pass


class TurnsPaidTooMuch(Turns):
    """A reward is finite, but float32 does not hold it."""

    def pay(self, agent: Any, action: Any) -> None:
        self.rewards[agent] = 1e39


class TurnsAskForItem(Turns):
    """Actions are asked for ``item()``."""

    choice = spaces.Discrete(3, start=3)

    def pay(self, agent: Any, action: Any) -> None:
        assert action.item() in (3, 4, 5)
        super().pay(agent, action)


class TurnsNoInfos(Turns):
    """There are no infos."""

    def info(self, agent: Any) -> Any:
        return None


class TurnsIntegers(Turns):
    """Agents are integers."""

    names = (0, 1)


class TurnsSettings(Turns):
    """A reset changes what the whole process shares."""

    def reset(self, seed: int | None = None, options: Any = None) -> None:
        torch.set_default_dtype(torch.float64)
        super().reset(seed, options)
