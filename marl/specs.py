"""Specs of arrays, actions, agents, groups and environments, and the grouping of agents that share a policy."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch

from marl.errors import InputError

Sharing = Literal["spaces", "none", "all"] | Mapping[str, str]
"""Which agents share a policy: those of equal spaces, none, all, or an explicit ``{agent: group}`` map."""


class SpecError(InputError):
    """Raised where an environment, or a choice about it, cannot be described by the specs; says why in one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArraySpec:
    """Shape (without leading time, copy and agent dimensions) and dtype of an array."""

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def is_image(self) -> bool:
        """True for (height, width, channels) arrays, which networks read with convolutions."""
        return len(self.shape) == 3


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscreteActions:
    """One choice out of ``num_actions``; action tensors are int64 of shape (..., A), counted from 0."""

    num_actions: int

    @property
    def array(self) -> ArraySpec:
        """Shape and dtype of one agent's action."""
        return ArraySpec(shape=(), dtype=torch.int64)

    @property
    def nvec(self) -> tuple[int, ...]:
        """Number of alternatives of the one choice, as for several."""
        return (self.num_actions,)

    @property
    def mask_size(self) -> int:
        """Length of one agent's action mask."""
        return self.num_actions


@dataclass(frozen=True, slots=True, kw_only=True)
class MultiDiscreteActions:
    """Several choices at once; action tensors are int64 of shape (..., A, K), each counted from 0."""

    nvec: tuple[int, ...]

    @property
    def array(self) -> ArraySpec:
        """Shape and dtype of one agent's action."""
        return ArraySpec(shape=(len(self.nvec),), dtype=torch.int64)

    @property
    def mask_size(self) -> int:
        """Length of one agent's action mask: the choices' masks, one after the other."""
        return sum(self.nvec)


@dataclass(frozen=True, slots=True, kw_only=True)
class ContinuousActions:
    """A vector of ``size`` real numbers; action tensors are float32 of shape (..., A, D).

    Action tensors are canonical: -1 stands for ``low`` and 1 for ``high``. The environment clips and scales
    them, so that no network, noise or loss needs to know the bounds. Where a bound is infinite the number is
    handed on as it is.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]

    @property
    def size(self) -> int:
        """Number of action dimensions."""
        return len(self.low)

    @property
    def array(self) -> ArraySpec:
        """Shape and dtype of one agent's action."""
        return ArraySpec(shape=(self.size,), dtype=torch.float32)

    @property
    def mask_size(self) -> int:
        """Length of one agent's action mask: 0, since continuous actions cannot be masked."""
        return 0


ActionSpec = DiscreteActions | MultiDiscreteActions | ContinuousActions


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSpec:
    """One agent: its name, observation and action specs, and whether it is given action masks."""

    name: str
    observation: ArraySpec
    action: ActionSpec
    masked: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSpec:
    """The agents that share one policy; they have equal specs.

    Raises:
        SpecError: continuous actions are masked.
    """

    name: str
    agents: tuple[str, ...]
    observation: ArraySpec
    action: ActionSpec
    masked: bool = False

    def __post_init__(self) -> None:
        if self.masked and isinstance(self.action, ContinuousActions):
            raise SpecError(f"group {self.name} has continuous actions, which cannot be masked")

    @property
    def size(self) -> int:
        """Number of agents, the A of tensor names."""
        return len(self.agents)


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentSpec:
    """All groups in sorted order of their names, and the global state (None where it was not requested)."""

    groups: tuple[GroupSpec, ...]
    state: ArraySpec | None = None
    turn_based: bool = False
    _by_name: dict[str, GroupSpec] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        names = [group.name for group in self.groups]
        if names != sorted(set(names)):
            raise SpecError(f"groups must have distinct names in sorted order, not {names}")
        object.__setattr__(self, "_by_name", {group.name: group for group in self.groups})

    @property
    def agents(self) -> tuple[str, ...]:
        """All agents, sorted by name."""
        return tuple(sorted(agent for group in self.groups for agent in group.agents))

    def group(self, name: str) -> GroupSpec:
        """The group called ``name``."""
        return self._by_name[name]


def group_agents(agents: Sequence[AgentSpec], sharing: Sharing = "spaces") -> tuple[GroupSpec, ...]:
    """Puts agents into groups that share one policy each.

    A group is named after what its agents' names have in common (``agent_0, agent_1`` → ``agent``), a group of
    one after its agent; groups and the agents in them are sorted by name.

    Raises:
        SpecError: agents of one group differ in their spaces, or an explicit map misses or invents agents.
    """
    ordered = sorted(agents, key=lambda agent: agent.name)
    known = {agent.name for agent in ordered}
    members: dict[object, list[AgentSpec]] = {}
    if isinstance(sharing, Mapping):
        if missing := sorted(known - set(sharing)):
            raise SpecError(
                f"--algorithm.sharing leaves out {', '.join(missing)}; every agent has a group, as in {missing[0]}=a"
            )
        if unknown := sorted(set(sharing) - known):
            raise SpecError(
                f"--algorithm.sharing names {', '.join(unknown)}, but the agents are {', '.join(sorted(known))}"
            )
    for agent in ordered:
        key: object
        if isinstance(sharing, Mapping):
            key = sharing[agent.name]
        elif sharing == "none":
            key = agent.name
        elif sharing == "all":
            key = "all"
        elif sharing == "spaces":
            key = (agent.observation, agent.action, agent.masked)
        else:
            raise SpecError(
                f"--algorithm.sharing is one of spaces, none, all, or a map from agent to group; not {sharing!r}"
            )
        members.setdefault(key, []).append(agent)
    groups: list[GroupSpec] = []
    for key, group in members.items():
        first = group[0]
        for other in group[1:]:
            if (other.observation, other.action, other.masked) != (first.observation, first.action, first.masked):
                raise SpecError(
                    f"{first.name} and {other.name} cannot share a policy: their spaces differ; "
                    "use --algorithm.sharing spaces or --algorithm.sharing none"
                )
        name = key if isinstance(sharing, Mapping) and isinstance(key, str) else _common_name(group)
        if any(existing.name == name for existing in groups):
            name = first.name
        groups.append(
            GroupSpec(
                name=name,
                agents=tuple(agent.name for agent in group),
                observation=first.observation,
                action=first.action,
                masked=first.masked,
            )
        )
    return tuple(sorted(groups, key=lambda group: group.name))


def _common_name(agents: Sequence[AgentSpec]) -> str:
    if len(agents) == 1:
        return agents[0].name
    names = [agent.name for agent in agents]
    prefix = os.path.commonprefix(names).rstrip("_-0123456789 ")  # noqa: RUF071 (names, not paths)
    return prefix or "agents"
