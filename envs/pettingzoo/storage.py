"""Storage of the PettingZoo adapter's time steps: tensors allocated once, written through numpy views."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from marl.envs.pettingzoo.rows import ApiError, Seat
from marl.envs.pettingzoo.spaces import Array
from marl.specs import ArraySpec, ContinuousActions, EnvironmentSpec, GroupSpec
from marl.types import FinalGroupStep, FinalStep, GroupStep, TimeStep


class GroupArrays:
    """One group's arrays for E copies, as tensors and as numpy views of them."""

    def __init__(self, spec: GroupSpec, num_envs: int) -> None:
        self.spec = spec
        shape = (num_envs, spec.size)
        mask_shape = (*shape, spec.action.mask_size)
        self.step = GroupStep(
            observations=torch.zeros((*shape, *spec.observation.shape), dtype=spec.observation.dtype),
            action_masks=torch.ones(mask_shape, dtype=torch.bool) if spec.masked else None,
            active=torch.zeros(shape, dtype=torch.bool),
            rewards=torch.zeros(shape),
            terminated=torch.zeros(shape, dtype=torch.bool),
            truncated=torch.zeros(shape, dtype=torch.bool),
        )
        self.final_step = FinalGroupStep(
            observations=torch.zeros_like(self.step.observations),
            action_masks=torch.ones(mask_shape, dtype=torch.bool) if spec.masked else None,
        )
        self.observations: Array = self.step.observations.numpy()
        self.active: NDArray[np.bool_] = self.step.active.numpy()
        self.rewards: NDArray[np.float32] = self.step.rewards.numpy()
        self.terminated: NDArray[np.bool_] = self.step.terminated.numpy()
        self.truncated: NDArray[np.bool_] = self.step.truncated.numpy()
        self.masks = None if self.step.action_masks is None else self.step.action_masks.numpy()
        nvec = () if isinstance(spec.action, ContinuousActions) else spec.action.nvec
        stops = np.cumsum(nvec).tolist()
        self.mask_parts = [slice(stop - count, stop) for stop, count in zip(stops, nvec, strict=True)]
        """The mask of each choice within an agent's mask."""
        self.final_observations: Array = self.final_step.observations.numpy()
        self.final_masks = None if self.final_step.action_masks is None else self.final_step.action_masks.numpy()

    def last_mask(self, copy: int, row: int, mask: Array | None) -> Array:
        """The mask of an agent that is cut off: what it is shown, and for choices of which it is shown none, its last.

        A value is bootstrapped over these actions, so all of them must not be called legal for want of a mask.
        """
        assert self.masks is not None
        kept: Array = self.masks[copy, row].copy()
        if mask is not None and np.shape(mask) == kept.shape:
            for part in self.mask_parts:
                if np.any(mask[part]):
                    kept[part] = np.asarray(mask[part]) != 0
        return kept


class Storage:
    """All arrays of E copies, and the time step made of them.

    Args:
        spec: the environment's spec.
        seats: all agents, in the order of groups and then of their names.
        num_envs: number of copies, E.
    """

    def __init__(self, spec: EnvironmentSpec, seats: Sequence[Seat], num_envs: int) -> None:
        self.spec = spec
        self.seats = tuple(seats)
        self.index = {seat.agent: index for index, seat in enumerate(self.seats)}
        self.num_envs = num_envs
        self.groups = [GroupArrays(group, num_envs) for group in spec.groups]
        self.first_tensor = torch.zeros(num_envs, dtype=torch.bool)
        self.first: NDArray[np.bool_] = self.first_tensor.numpy()
        self.state_tensor = None if spec.state is None else _zeros(spec.state, num_envs)
        self.final_state_tensor = None if spec.state is None else _zeros(spec.state, num_envs)
        self.state: Array | None = None if self.state_tensor is None else self.state_tensor.numpy()
        self.final_state: Array | None = None if self.final_state_tensor is None else self.final_state_tensor.numpy()
        self.ended: list[int] = []
        """Copies whose episode ended at this step, in the order of their final rows."""
        self.infos: dict[int, Mapping[str, float]] = {}
        """Numbers in the last infos of those of them that have any."""
        self.dropped: set[int] = set()
        """Those of them whose environment failed, so that the episode counts for nothing."""
        self._flagged = False
        self._steps = {group.spec.name: group.step for group in self.groups}
        self._without_final = TimeStep(groups=self._steps, state=self.state_tensor, first=self.first_tensor, final=None)

    def begin_step(self) -> None:
        """Forgets the endings of the step before."""
        if self._flagged:
            for group in self.groups:
                group.terminated[...] = False
                group.truncated[...] = False
            self.first[...] = False
            self._flagged = False
        self.ended.clear()
        self.dropped.clear()
        self.infos.clear()

    def flag(self, copy: int, seat: Seat, *, terminated: bool, truncated: bool) -> None:
        """Notes how an agent's life ended. Where both are set no value remains, so terminated counts."""
        group = self.groups[seat.group]
        group.terminated[copy, seat.row] = terminated
        group.truncated[copy, seat.row] = truncated and not terminated
        self._flagged = True

    def keep_final(self, copy: int) -> int:
        """Keeps the copy's present observations and masks as its episode's last; returns their row."""
        row = len(self.ended)
        self.ended.append(copy)
        for group in self.groups:
            group.final_observations[row] = group.observations[copy]
            if group.masks is not None and group.final_masks is not None:
                group.final_masks[row] = group.masks[copy]
        return row

    def drop_episode(self, copy: int, alive: Sequence[Seat]) -> None:
        """Ends an episode whose environment failed where it was seen last: cut off, with no reward for the step.

        Args:
            copy: which copy; its rows are still those of the step before.
            alive: whose lives are cut off.
        """
        last = self.keep_final(copy)
        self.dropped.add(copy)
        for group in self.groups:
            group.rewards[copy] = 0
        if self.state is not None and self.final_state is not None:
            self.final_state[last] = self.state[copy]
        for seat in alive:
            self.flag(copy, seat, terminated=False, truncated=True)

    def begin_episode(self, copy: int) -> None:
        """Notes that the copy's observations begin an episode."""
        self.first[copy] = True
        self._flagged = True

    def restore(self, copy: int, *, first: bool, rows: Sequence[Sequence[Array]] | None) -> None:
        """Puts back what led to one copy's current observations.

        Args:
            copy: which copy.
            first: whether its observations begin an episode.
            rows: rewards, terminated and truncated of each group; None for a copy that begins anew.
        """
        self.first[copy] = first
        for index, group in enumerate(self.groups):
            rewards, terminated, truncated = (0, False, False) if rows is None else rows[index]
            group.rewards[copy] = rewards
            group.terminated[copy] = terminated
            group.truncated[copy] = truncated
        self._flagged = True

    def check_known(self, agents: set[str], copy: int) -> None:
        """Raises ApiError where an environment names an agent that ``possible_agents`` does not hold."""
        if unknown := agents.difference(self.index):
            raise ApiError(
                "possible_agents names every agent",
                agent=str(min(unknown, key=str)),
                copy=copy,
                detail="it appeared unannounced",
            )

    def timestep(self) -> TimeStep:
        """The time step that was written last."""
        if not self.ended:
            return self._without_final
        count = len(self.ended)
        return TimeStep(
            groups=self._steps,
            state=self.state_tensor,
            first=self.first_tensor,
            final=FinalStep(
                envs=torch.tensor(self.ended, dtype=torch.int64),
                groups={
                    group.spec.name: FinalGroupStep(
                        observations=group.final_step.observations[:count],
                        action_masks=None
                        if group.final_step.action_masks is None
                        else group.final_step.action_masks[:count],
                    )
                    for group in self.groups
                },
                state=None if self.final_state_tensor is None else self.final_state_tensor[:count],
                dropped=torch.tensor([copy in self.dropped for copy in self.ended]) if self.dropped else None,
                infos=[self.infos.get(copy, {}) for copy in self.ended] if self.infos else (),
            ),
        )

    def fill_masks(self) -> None:
        """Agents that need not act get full masks; those that must act and have no legal action are an error."""
        for index, group in enumerate(self.groups):
            if group.masks is None or group.final_masks is None:
                continue
            for part in group.mask_parts:
                masks = group.masks[..., part]
                some = masks.any(axis=-1)
                if not some.all():
                    stuck = group.active & ~some
                    if stuck.any():
                        copy, row = (int(i) for i in np.argwhere(stuck)[0])
                        raise ApiError(
                            "an agent that must act has a legal action",
                            agent=self._seat(index, row).agent,
                            copy=copy,
                            detail="its action mask is all zero",
                        )
                    masks[~some] = True
                if self.ended:
                    final = group.final_masks[: len(self.ended), :, part]
                    final[~final.any(axis=-1)] = True

    def check_finite(self) -> None:
        """Raises ApiError where an observation or state is NaN or infinite."""
        count = len(self.ended)
        for index, group in enumerate(self.groups):
            if group.observations.dtype == np.float32:
                self._check_rows("observations are finite", group.observations, index)
                if count:
                    self._check_rows("observations are finite", group.final_observations[:count], index, self.ended)
        for state, envs in ((self.state, None), (self.final_state, self.ended)):
            if state is None or state.dtype != np.float32:
                continue
            rows = state if envs is None else state[: len(envs)]
            if not np.isfinite(rows).all():
                bad = int(np.argwhere(~np.isfinite(rows))[0][0])
                raise ApiError(
                    "the state is finite",
                    copy=bad if envs is None else envs[bad],
                    detail="it holds NaN or infinity",
                )

    def _check_rows(self, rule: str, rows: Array, group: int, envs: Sequence[int] | None = None) -> None:
        if np.isfinite(rows).all():
            return
        bad, row = (int(i) for i in np.argwhere(~np.isfinite(rows))[0][:2])
        value = rows[bad, row]
        raise ApiError(
            rule,
            agent=self._seat(group, row).agent,
            copy=bad if envs is None else envs[bad],
            detail=f"got {np.asarray(value)[~np.isfinite(value)].reshape(-1)[0]}",
        )

    def _seat(self, group: int, row: int) -> Seat:
        return self.seats[self.index[self.groups[group].spec.agents[row]]]


def _zeros(spec: ArraySpec, num_envs: int) -> Tensor:
    return torch.zeros((num_envs, *spec.shape), dtype=spec.dtype)
