"""Sides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from marl.errors import InputError
from marl.specs import EnvironmentSpec


class Sides:
    """The sides of a game: which agents play together.

    Args:
        spec: of the environment.
        side_of: the side of each agent, by name; by default every agent is a side where all agents have equal
            spaces, and every group is one where they differ (roles).

    Attributes:
        names: of the S sides, in the order of their first agents' names.
        agents: of each side, sorted by name.
        of_group: which side each agent of a group is on, (A,) int64.
        of_agent: the same for all agents, group by group.

    Raises:
        InputError: there are fewer than two sides, or agents are left out or invented.
    """

    names: tuple[str, ...]
    agents: tuple[tuple[str, ...], ...]
    of_group: dict[str, Tensor]
    of_agent: Tensor

    def __init__(self, spec: EnvironmentSpec, side_of: Mapping[str, str] | None = None) -> None:
        if side_of is None:
            roles = len(spec.groups) > 1
            side_of = {agent: group.name if roles else agent for group in spec.groups for agent in group.agents}
        if wrong := sorted(set(spec.agents) ^ set(side_of)):
            raise InputError(
                f"--sides gives each of {', '.join(spec.agents)} a side and nobody else; wrong or missing: "
                f"{', '.join(wrong)}"
            )
        self.names = tuple(dict.fromkeys(side_of[agent] for agent in spec.agents))
        if len(self.names) < 2:
            raise InputError(
                f"all agents ({', '.join(spec.agents)}) are on one side, so there is nobody to play against; "
                'name sides with --sides \'{"AGENT": "SIDE", ...}\''
            )
        self.agents = tuple(tuple(agent for agent in spec.agents if side_of[agent] == name) for name in self.names)
        index = {name: number for number, name in enumerate(self.names)}
        self.of_group = {
            group.name: torch.tensor([index[side_of[agent]] for agent in group.agents]) for group in spec.groups
        }
        self.of_agent = torch.cat(list(self.of_group.values()))

    def __len__(self) -> int:
        return len(self.names)

    def returns(self, of_agents: Tensor) -> Tensor:
        """Returns of agents, (K, agents) group by group, summed by side: (K, S)."""
        sums = of_agents.new_zeros((len(of_agents), len(self)))
        return sums.index_add_(1, self.of_agent, of_agents)


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """The agents that one player plays."""

    name: str
    agents: tuple[str, ...]


def two_or_more_sides(agents: Sequence[str], teams: Mapping[str, Sequence[str]] | None = None) -> tuple[Side, ...]:
    """Divides agents into sides.

    Args:
        agents: all agents.
        teams: agents by side. By default those whose names differ in their numbers only (``red_0``, ``red_1``) are a
            side; where that puts all together, every agent is a side of its own.

    Raises:
        InputError: an agent is in no side, in two, or unknown; or there is one side only.
    """
    if teams is None:
        found: dict[str, list[str]] = {}
        for agent in sorted(agents):
            found.setdefault(agent.rstrip("0123456789").rstrip("_- ") or agent, []).append(agent)
        teams = found if len(found) > 1 else {agent: [agent] for agent in sorted(agents)}
    taken = [agent for members in teams.values() for agent in members]
    if unknown := sorted(set(taken) - set(agents)):
        raise InputError(f"a team names {unknown[0]}, but the agents are {', '.join(sorted(agents))}")
    if missing := sorted(set(agents) - set(taken)):
        raise InputError(f"no team has {', '.join(missing)}; every agent belongs to one")
    if len(set(taken)) != len(taken):
        raise InputError(f"{next(a for a in taken if taken.count(a) > 1)} is in two teams")
    if len(teams) < 2 or not all(teams.values()):
        raise InputError("a game needs two sides or more, each with agents")
    return tuple(Side(name=name, agents=tuple(members)) for name, members in teams.items())


def sides_are_alike(spec: EnvironmentSpec, sides: Sequence[Side]) -> bool:
    """Whether all sides have the same number of agents with the same spaces, so that returns can be compared."""
    groups = {agent: group for group in spec.groups for agent in group.agents}

    def kind(side: Side) -> list[str]:
        return sorted(
            repr((groups[agent].observation, groups[agent].action, groups[agent].masked)) for agent in side.agents
        )

    return all(kind(side) == kind(sides[0]) for side in sides[1:])
