"""The data that flows: time steps from environments, trajectories to learners.

Letters in tensor names: T time, E environment copies, A agents of a group, B flat batch. Dictionaries are keyed
by group name, in sorted order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[Any]
Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

Actions = Mapping[str, Tensor]
"""One tensor a group: (E, A) int64, (E, A, K) int64 or (E, A, D) float32, as the group's action spec says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupStep:
    """Observations, rewards and endings of one group's agents at one step, in E environment copies.

    The rewards and endings are those of the step that led here; after an environment's reset they are zero.
    """

    observations: Tensor
    """(E, A, *observation shape). Rows of agents that are not active are the agent's last observation, or zero."""
    action_masks: Tensor | None
    """(E, A, mask size) bool, True where legal; None where the group is not masked. Never all False."""
    active: Tensor
    """(E, A) bool: agents that must act now. Actions of the others are ignored."""
    rewards: Tensor
    """(E, A) float32: the agent's own reward for the step that led here."""
    terminated: Tensor
    """(E, A) bool: the agent's life ended at the step that led here, and no value remains."""
    truncated: Tensor
    """(E, A) bool: the agent's episode was cut off at the step that led here; its value is bootstrapped."""

    def to(self, device: torch.device) -> GroupStep:
        """The same on a device."""
        return GroupStep(
            observations=self.observations.to(device),
            action_masks=_optional(self.action_masks, device),
            active=self.active.to(device),
            rewards=self.rewards.to(device),
            terminated=self.terminated.to(device),
            truncated=self.truncated.to(device),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalGroupStep:
    """Last observations of one group in the K copies whose episodes ended."""

    observations: Tensor
    """(K, A, *observation shape)."""
    action_masks: Tensor | None
    """(K, A, mask size) bool."""

    def to(self, device: torch.device) -> FinalGroupStep:
        """The same on a device."""
        return FinalGroupStep(
            observations=self.observations.to(device), action_masks=_optional(self.action_masks, device)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalStep:
    """Last observations of the K ≥ 1 copies whose episodes ended at the step that led here."""

    envs: Tensor
    """(K,) int64 on the CPU, ascending: indices among the E copies."""
    groups: Mapping[str, FinalGroupStep]
    state: Tensor | None
    """(K, *state shape)."""
    dropped: Tensor | None = None
    """(K,) bool on the CPU: episodes that count in no statistic, because their copy failed; None for none."""
    infos: Sequence[Mapping[str, float]] = ()
    """Numbers in each episode's last infos, by name; empty where the environment gives none."""

    def to(self, device: torch.device) -> FinalStep:
        """The same on a device, but for what is always on the CPU."""
        groups = {name: step.to(device) for name, step in self.groups.items()}
        state = _optional(self.state, device)
        return FinalStep(envs=self.envs, groups=groups, state=state, dropped=self.dropped, infos=self.infos)


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeStep:
    """One step of E environment copies. Its tensors are overwritten by the next step; copy what you keep.

    Episodes reset by themselves: in a copy whose episode ended, rewards and endings are those of the old
    episode, observations, masks, active flags and state those of the new one, and ``final`` holds the old
    episode's last observations.
    """

    groups: Mapping[str, GroupStep]
    state: Tensor | None
    """(E, *state shape), or None where the state was not requested."""
    first: Tensor
    """(E,) bool: these observations begin an episode."""
    final: FinalStep | None
    """The ended episodes' last observations; None where no episode ended."""

    def to(self, device: torch.device) -> TimeStep:
        """The same on a device."""
        return TimeStep(
            groups={name: step.to(device) for name, step in self.groups.items()},
            state=_optional(self.state, device),
            first=self.first.to(device),
            final=None if self.final is None else self.final.to(device),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupTrajectory:
    """T steps of one group: row t of ``actions`` was chosen at row t of ``observations``."""

    observations: Tensor
    """(T+1, E, A, *observation shape)."""
    action_masks: Tensor | None
    """(T+1, E, A, mask size) bool."""
    active: Tensor
    """(T+1, E, A) bool."""
    actions: Tensor
    """(T, E, A, *action shape)."""
    rewards: Tensor
    """(T, E, A) float32: received on the way from row t to row t+1."""
    terminated: Tensor
    """(T, E, A) bool: on the way from row t to row t+1."""
    truncated: Tensor
    """(T, E, A) bool: on the way from row t to row t+1."""
    extras: Mapping[str, Tensor]
    """The policy's outputs for its learner, (T, E, A, ...): log-probabilities, recurrent states before row t."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrajectoryFinals:
    """Last observations of the K episodes that ended within a trajectory; see FinalStep."""

    times: Tensor
    """(K,) int64: the episode ended on the way from row t to row t+1."""
    envs: Tensor
    """(K,) int64."""
    groups: Mapping[str, FinalGroupStep]
    state: Tensor | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectory:
    """T steps of E copies, and the T+1st observation. Views of storage that the next rollout overwrites."""

    groups: Mapping[str, GroupTrajectory]
    state: Tensor | None
    """(T+1, E, *state shape)."""
    first: Tensor
    """(T+1, E) bool: row t begins an episode, so for t > 0 an episode ended on the way to it."""
    finals: TrajectoryFinals

    @property
    def length(self) -> int:
        """Number of steps, T."""
        return self.first.shape[0] - 1

    @property
    def num_envs(self) -> int:
        """Number of environment copies on this rank, E."""
        return self.first.shape[1]


def _optional(tensor: Tensor | None, device: torch.device) -> Tensor | None:
    return None if tensor is None else tensor.to(device)
