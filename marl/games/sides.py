"""The sides of a game: which agents play together; the one rule of self-play, leagues and tournaments."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from marl.errors import InputError, nearest
from marl.specs import AgentSpec, EnvironmentSpec, GroupSpec, group_agents

_EXAMPLE = '--teams \'{"AGENT": "TEAM", ...}\''


class Sides:
    """The sides of a game. Each is an agent, or a team of agents; one player decides for a side.

    Args:
        spec: of the environment.
        teams: the team of each agent, by name; see ``default_teams`` for what stands in its place.

    Attributes:
        names: of the S sides, in the order of their first agents' names.
        agents: of each side, sorted by name.
        of_group: which side each agent of a group is on, (A,) int64.
        of_agent: the same for all agents, group by group.

    Raises:
        InputError: there are fewer than two sides, or agents are left out or unknown.
    """

    names: tuple[str, ...]
    agents: tuple[tuple[str, ...], ...]
    of_group: dict[str, Tensor]
    of_agent: Tensor

    def __init__(self, spec: EnvironmentSpec, teams: Mapping[str, str] | None = None) -> None:
        if teams is None:
            teams = default_teams(spec)
        _check_teams(spec.agents, teams)
        self.names = tuple(dict.fromkeys(teams[agent] for agent in spec.agents))
        self.agents = tuple(tuple(agent for agent in spec.agents if teams[agent] == name) for name in self.names)
        index = {name: number for number, name in enumerate(self.names)}
        self.of_group = {
            group.name: torch.tensor([index[teams[agent]] for agent in group.agents]) for group in spec.groups
        }
        self.of_agent = torch.cat(list(self.of_group.values()))

    def __len__(self) -> int:
        return len(self.names)

    def returns(self, of_agents: Tensor) -> Tensor:
        """Returns of agents, (K, agents) group by group, summed by side: (K, S)."""
        sums = of_agents.new_zeros((len(of_agents), len(self)))
        return sums.index_add_(1, self.of_agent, of_agents)


def default_teams(spec: EnvironmentSpec) -> dict[str, str]:
    """The team of each agent where nobody named teams.

    Agents whose names differ in a trailing number only are a team (``red_0`` and ``red_1``), if that makes two teams
    or more, one of them of several agents. Else agents of equal spaces are a team, if spaces differ. Else every agent
    is alone. How agents share policies has no part in it.
    """
    by_name = {agent: agent.rstrip("0123456789").rstrip("_- ") or agent for agent in spec.agents}
    if 1 < len(set(by_name.values())) < len(by_name):
        return by_name
    agents = [
        AgentSpec(name=agent, observation=group.observation, action=group.action, masked=group.masked)
        for group in spec.groups
        for agent in group.agents
    ]
    by_spaces = group_agents(agents)
    if len(by_spaces) > 1:
        return {agent: group.name for group in by_spaces for agent in group.agents}
    return {agent: agent for agent in spec.agents}


def read_teams(text: str | None) -> dict[str, str] | None:
    """Reads the option ``--teams``, a JSON object from agent to team; None where it was not given.

    Raises:
        InputError: it is something else, or names an agent twice; ``Sides`` checks the agents.
    """
    if text is None:
        return None
    try:
        pairs = json.loads(text, object_pairs_hook=_Pairs)
    except ValueError as error:
        raise InputError(f"--teams is not JSON ({error}); give {_EXAMPLE}") from error
    if not isinstance(pairs, _Pairs) or not all(isinstance(team, str) and team for _, team in pairs):
        raise InputError(f"--teams is a JSON object from agent to team, as {_EXAMPLE}; not {text}")
    teams = dict(pairs)
    if len(teams) < len(pairs):
        agents = [agent for agent, _ in pairs]
        raise InputError(f"--teams names {next(agent for agent in agents if agents.count(agent) > 1)!r} twice")
    return teams


class _Pairs(list[tuple[str, Any]]):
    """A JSON object with all its pairs, of which a dict would keep the last of equal names."""


def _check_teams(agents: Sequence[str], teams: Mapping[str, str]) -> None:
    if unknown := sorted(set(teams) - set(agents)):
        raise InputError(f"--teams names {unknown[0]!r}, which is no agent{nearest(unknown[0], agents)}")
    if missing := sorted(set(agents) - set(teams)):
        raise InputError(f"--teams leaves out {', '.join(missing)}; every agent belongs to a team")
    if len(set(teams.values())) < 2:
        raise InputError(
            f"all agents ({', '.join(agents)}) are on one side, so there is nobody to play against; give {_EXAMPLE}"
        )


def sides_are_alike(spec: EnvironmentSpec, sides: Sides) -> bool:
    """True if all sides have the same number of agents with the same spaces, so that returns can be compared."""
    groups = {agent: group for group in spec.groups for agent in group.agents}

    def spaces(agents: Sequence[str]) -> list[str]:
        return sorted(_spaces(groups[agent]) for agent in agents)

    return all(spaces(agents) == spaces(sides.agents[0]) for agents in sides.agents[1:])


def _spaces(group: GroupSpec) -> str:
    return repr((group.observation, group.action, group.masked))
