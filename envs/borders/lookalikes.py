"""Environments of PettingZoo's shape that are not its classes', and agents whose names are no strings."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

from pettingzoo import AECEnv, ParallelEnv

from marl.errors import InputError

Make = Callable[[], Any]


def recognized(make: Make) -> Make:
    """A callable whose environments are PettingZoo's own classes with names for agents; see ``recognize``."""
    return lambda: recognize(make())


def recognize(environment: Any) -> Any:
    """The environment as a ParallelEnv or AECEnv whose agents are named by strings.

    An environment that is one is returned as it is. One that only has the methods of either is wrapped, and so is one
    whose agents are integers, tuples or anything else: an integer is written as it is, a tuple with underscores.
    Whatever has no such shape is returned too, for others to refuse.

    Raises:
        InputError: two agents would have the same name.
    """
    turn_based = isinstance(environment, AECEnv)
    inherits = turn_based or isinstance(environment, ParallelEnv)
    agents = getattr(environment, "possible_agents", None)
    if agents is None or (inherits and all(isinstance(agent, str) for agent in agents)):
        return environment
    if not inherits:
        if not (callable(getattr(environment, "reset", None)) and callable(getattr(environment, "step", None))):
            return environment
        turn_based = callable(getattr(environment, "observe", None)) and callable(getattr(environment, "last", None))
    names = {agent: _name(agent) for agent in agents}
    if len(set(names.values())) < len(names):
        raise InputError(
            f"agents need names that differ when they are written down, and these are {', '.join(names.values())}"
        )
    return (_TurnLookalike if turn_based else _ParallelLookalike)(environment, names)


def _name(agent: Hashable) -> str:
    return "_".join(map(_name, agent)) if isinstance(agent, tuple) else str(agent)


class _Names:
    """Agents of an environment, by their names and by what it calls them itself."""

    def __init__(self, environment: Any, names: Mapping[Hashable, str]) -> None:
        self.env = environment
        self._names = dict(names)
        self._agents = {name: agent for agent, name in names.items()}
        self.possible_agents = list(names.values())
        self.metadata = getattr(environment, "metadata", {})

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "env":
            raise AttributeError(name)
        return getattr(self.env, name)

    def __str__(self) -> str:
        return str(self.env)

    @property
    def unwrapped(self) -> Any:
        """The environment within."""
        return getattr(self.env, "unwrapped", self.env)

    @property
    def agents(self) -> list[str]:
        """Names of the agents that live."""
        return [self._named(agent) for agent in self.env.agents]

    def observation_space(self, agent: str) -> Any:
        """The space of the agent's observations."""
        return self._space("observation_space", agent)

    def action_space(self, agent: str) -> Any:
        """The space of the agent's actions."""
        return self._space("action_space", agent)

    def state(self) -> Any:
        """The environment's own state."""
        return self.env.state()

    def render(self) -> Any:
        """The environment's own picture."""
        return self.env.render()

    def close(self) -> None:
        """Closes the environment, if it can be closed."""
        close = getattr(self.env, "close", None)
        if close is not None:
            close()

    def _space(self, kind: str, agent: str) -> Any:
        method = getattr(self.env, kind, None)
        theirs = self._agents[agent]
        return method(theirs) if callable(method) else getattr(self.env, f"{kind}s")[theirs]

    def _named(self, agent: Any) -> str:
        name = self._names.get(agent)
        return _name(agent) if name is None else name

    def _by_name(self, values: Any) -> Any:
        # What is no dictionary is handed on as it is: whoever reads it says what is wrong.
        return {self._named(agent): value for agent, value in values.items()} if isinstance(values, Mapping) else values


class _ParallelLookalike(_Names, ParallelEnv):  # type: ignore[misc]  # PettingZoo is not typed here
    """A ParallelEnv over anything of that shape."""

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        return self._results(self.env.reset(seed=seed) if options is None else self.env.reset(seed, options))

    def step(self, actions: Mapping[str, Any]) -> Any:
        return self._results(self.env.step({self._agents[name]: action for name, action in actions.items()}))

    def _results(self, results: Any) -> Any:
        return tuple(map(self._by_name, results)) if isinstance(results, tuple) else self._by_name(results)


class _TurnLookalike(_Names, AECEnv):  # type: ignore[misc]  # PettingZoo is not typed here
    """An AECEnv over anything of that shape."""

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> None:
        if options is None:
            self.env.reset(seed=seed)
        else:
            self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> None:
        self.env.step(action)

    def observe(self, agent: str) -> Any:
        return self.env.observe(self._agents[agent])

    @property
    def agent_selection(self) -> str:
        """Name of the agent that is to move."""
        return self._named(self.env.agent_selection)

    @property
    def rewards(self) -> Any:
        """Rewards of the last step, by agent."""
        return self._by_name(self.env.rewards)

    @property
    def terminations(self) -> Any:
        """Flags of agents whose lives came to their own end."""
        return self._by_name(self.env.terminations)

    @property
    def truncations(self) -> Any:
        """Flags of agents whose lives were cut off."""
        return self._by_name(self.env.truncations)

    @property
    def infos(self) -> Any:
        """Infos, by agent."""
        return self._by_name(self.env.infos)

    @property
    def _cumulative_rewards(self) -> Any:
        return self._by_name(self.env._cumulative_rewards)
