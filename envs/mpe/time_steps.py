"""The tensors that batched MPE returns: allocated once, written in place, and seen through views."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from marl.core import State
from marl.envs.mpe.columns import Columns
from marl.specs import EnvironmentSpec
from marl.types import FinalGroupStep, FinalStep, GroupStep, TimeStep

Flags = np.ndarray[Any, np.dtype[np.bool_]]


class TimeSteps:
    """Observations and rewards of E copies, and the time steps made of them.

    Whoever writes into ``observations`` or ``rewards`` says so by ``refresh_observations`` or ``refresh_rewards``.

    Args:
        spec: the environment's spec.
        sizes: the size of every agent's observation, by name and in mpe2's order.
        num_envs: number of copies, E.
        device: where the tensors live.
    """

    observations: Tensor
    """(E, sum of sizes) float32, which is the state too."""
    final_observations: Tensor
    """The last observations of episodes that ended."""
    rewards: Tensor
    """(E, A) float32, agents in mpe2's order."""
    running: TimeStep
    """The time step within episodes."""
    begun: TimeStep
    """The time step after a reset of all copies."""
    all_truncated: TimeStep
    """The time step at which all copies are truncated and begin anew."""

    def __init__(self, spec: EnvironmentSpec, sizes: Mapping[str, int], *, num_envs: int, device: torch.device) -> None:
        self._spec = spec
        starts = dict(zip(sizes, itertools.accumulate(sizes.values(), initial=0), strict=False))
        self._order = {name: index for index, name in enumerate(sizes)}
        self.observations = torch.zeros(num_envs, sum(sizes.values()), device=device)
        self.final_observations = torch.zeros_like(self.observations)
        self.rewards = torch.zeros(num_envs, len(sizes), device=device)
        self._ending = {
            flag: torch.zeros(num_envs, dtype=torch.bool, device=device)
            for flag in ("first", "terminated", "truncated")
        }
        self._observation_columns = self._observed(self.observations, starts)
        self._final_columns = self._observed(self.final_observations, starts)
        self._reward_columns = {
            group.name: Columns(self.rewards, [self._order[agent] for agent in group.agents], None)
            for group in spec.groups
        }
        self._all, self._none = (torch.full((num_envs,), flag, device=device) for flag in (True, False))
        self._always, self._never = (
            {
                group.name: torch.full((num_envs, group.size), flag, dtype=torch.bool, device=device)
                for group in spec.groups
            }
            for flag in (True, False)
        )
        self.running = self._time_step(first=self._none)
        self.begun = self._time_step(first=self._all)
        self.all_truncated = self._time_step(
            first=self._all, truncated=self._always, final=self._final_step(torch.arange(num_envs), slice(None))
        )

    def refresh_observations(self) -> None:
        """Shows what ``observations`` holds now."""
        _refresh(self._observation_columns)

    def refresh_rewards(self) -> None:
        """Shows what ``rewards`` holds now."""
        _refresh(self._reward_columns)

    def keep_final(self) -> None:
        """Keeps the present observations as the last ones of episodes that end."""
        self.final_observations.copy_(self.observations)
        _refresh(self._final_columns)

    def with_endings(self, *, truncated: Flags, terminated: Flags, first: Tensor | None = None) -> TimeStep:
        """The time step at which some copies end, (E,) flags; ``first`` where it is not simply those that end."""
        ended = truncated | terminated
        for name, flags in (("truncated", truncated), ("terminated", terminated), ("first", ended)):
            self._ending[name].copy_(torch.from_numpy(flags))
        if first is not None:
            self._ending["first"].copy_(first)
        envs = torch.from_numpy(np.flatnonzero(ended))
        return self._time_step(
            first=self._ending["first"],
            terminated=self._per_agent("terminated"),
            truncated=self._per_agent("truncated"),
            final=self._final_step(envs, envs.to(self.observations.device)) if envs.numel() else None,
        )

    def buffers(self) -> dict[str, Tensor]:
        """The tensors that are written, by the names under which they are saved."""
        return {
            "observations": self.observations,
            "final_observations": self.final_observations,
            "rewards": self.rewards,
        }

    def save(self, step: TimeStep) -> State:
        """The tensors' contents while ``step`` is the newest time step."""
        group = next(iter(step.groups.values()))
        return {
            **{name: tensor.cpu().clone() for name, tensor in self.buffers().items()},
            "first": step.first.cpu().clone(),
            "terminated": group.terminated[:, 0].cpu().clone(),
            "truncated": group.truncated[:, 0].cpu().clone(),
        }

    def load(self, state: State) -> TimeStep:
        """The saved time step; to be called when ``buffers`` hold again what was saved."""
        for columns in (self._observation_columns, self._final_columns, self._reward_columns):
            _refresh(columns)
        truncated, terminated = state["truncated"].numpy(), state["terminated"].numpy()
        return self.with_endings(truncated=truncated, terminated=terminated, first=state["first"])

    def _observed(self, buffer: Tensor, starts: Mapping[str, int]) -> dict[str, Columns]:
        return {
            group.name: Columns(buffer, [starts[agent] for agent in group.agents], group.observation.size)
            for group in self._spec.groups
        }

    def _per_agent(self, flag: str) -> dict[str, Tensor]:
        return {group.name: self._ending[flag].unsqueeze(1).expand(-1, group.size) for group in self._spec.groups}

    def _time_step(
        self,
        *,
        first: Tensor,
        terminated: Mapping[str, Tensor] | None = None,
        truncated: Mapping[str, Tensor] | None = None,
        final: FinalStep | None = None,
    ) -> TimeStep:
        return TimeStep(
            groups={
                group.name: GroupStep(
                    observations=self._observation_columns[group.name].tensor,
                    action_masks=None,
                    active=self._always[group.name],
                    rewards=self._reward_columns[group.name].tensor,
                    terminated=(terminated or self._never)[group.name],
                    truncated=(truncated or self._never)[group.name],
                )
                for group in self._spec.groups
            },
            state=self.observations if self._spec.state is not None else None,
            first=first,
            final=final,
        )

    def _final_step(self, envs: Tensor, rows: Tensor | slice) -> FinalStep:
        return FinalStep(
            envs=envs,
            groups={
                name: FinalGroupStep(observations=columns.tensor[rows], action_masks=None)
                for name, columns in self._final_columns.items()
            },
            state=self.final_observations[rows] if self._spec.state is not None else None,
        )


def _refresh(columns: Mapping[str, Columns]) -> None:
    for column in columns.values():
        column.refresh()
