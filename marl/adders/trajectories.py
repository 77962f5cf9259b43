"""On-policy rollouts: storage for T steps of all copies, and the adder that fills it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from marl.core import Adder, Dataset, State
from marl.specs import ArraySpec, EnvironmentSpec
from marl.types import Actions, FinalGroupStep, FinalStep, GroupTrajectory, TimeStep, Trajectory, TrajectoryFinals


class TrajectoryDataset(Dataset[Trajectory]):
    """Storage for T steps of E copies, allocated once; ready when it is full, and empty again once sampled.

    Args:
        spec: of the environment.
        length: T.
        num_envs: E, the copies of this rank.
        extras: specs of the policies' outputs for the learner, by group and name, without the agent dimension.
        device: of the tensors.
    """

    def __init__(
        self,
        spec: EnvironmentSpec,
        *,
        length: int,
        num_envs: int,
        extras: Mapping[str, Mapping[str, ArraySpec]],
        device: torch.device | str = "cpu",
    ) -> None:
        self.length = length
        self._device = device
        self._time = 0
        self._finals: list[tuple[int, FinalStep]] = []
        self._spec = spec

        def empty(rows: int, array: ArraySpec, *leading: int) -> Tensor:
            return torch.zeros((rows, num_envs, *leading, *array.shape), dtype=array.dtype, device=device)

        flag, number = ArraySpec(shape=(), dtype=torch.bool), ArraySpec(shape=())
        groups: dict[str, GroupTrajectory] = {}
        for group in spec.groups:
            masks = None
            if group.masked:
                masks = empty(length + 1, ArraySpec(shape=(group.action.mask_size,), dtype=torch.bool), group.size)
            groups[group.name] = GroupTrajectory(
                observations=empty(length + 1, group.observation, group.size),
                action_masks=masks,
                active=empty(length + 1, flag, group.size),
                actions=empty(length, group.action.array, group.size),
                rewards=empty(length, number, group.size),
                terminated=empty(length, flag, group.size),
                truncated=empty(length, flag, group.size),
                extras={name: empty(length, array, group.size) for name, array in extras[group.name].items()},
            )
        self._groups = groups
        self._state = None if spec.state is None else empty(length + 1, spec.state)
        self._first = empty(length + 1, flag)

    def ready(self) -> bool:
        """True when T steps have been added since the last sample; ranks step together, so they agree."""
        return self._time == self.length

    def at_boundary(self) -> bool:
        """True when no step waits to be learned from."""
        return self._time <= 0

    def sample(self) -> Trajectory:
        """The full trajectory, as views that the next step begins to overwrite."""
        if not self.ready():
            raise RuntimeError(f"a trajectory of {self.length} steps has only {self._time}")
        self._time = -1
        finals = self._gather_finals()
        return Trajectory(groups=self._groups, state=self._state, first=self._first, finals=finals)

    def write_first(self, timestep: TimeStep) -> None:
        """Begins with row 0."""
        self._time = 0
        self._finals.clear()
        self._write_row(0, timestep)

    def write(self, actions: Actions, extras: Mapping[str, State], timestep: TimeStep) -> None:
        """Adds one step; after a sample, the last row becomes the first one."""
        if self._time < 0:
            self._carry_over()
        t = self._time
        if t == self.length:
            raise RuntimeError("the trajectory is full: sample it before adding to it")
        for name, group in self._groups.items():
            step = timestep.groups[name]
            group.actions[t].copy_(actions[name])
            group.rewards[t].copy_(step.rewards)
            group.terminated[t].copy_(step.terminated)
            group.truncated[t].copy_(step.truncated)
            for key, rows in group.extras.items():
                rows[t].copy_(extras[name][key])
        self._write_row(t + 1, timestep)
        if timestep.final is not None:
            self._finals.append((t, _clone(timestep.final, self._device)))
        self._time = t + 1

    def _write_row(self, row: int, timestep: TimeStep) -> None:
        for name, group in self._groups.items():
            step = timestep.groups[name]
            group.observations[row].copy_(step.observations)
            group.active[row].copy_(step.active)
            if group.action_masks is not None:
                assert step.action_masks is not None
                group.action_masks[row].copy_(step.action_masks)
        if self._state is not None:
            assert timestep.state is not None
            self._state[row].copy_(timestep.state)
        self._first[row].copy_(timestep.first)

    def _gather_finals(self) -> TrajectoryFinals:
        steps = [final for _, final in self._finals]
        times = [torch.full_like(final.envs, time) for time, final in self._finals]
        nothing = torch.zeros(0, dtype=torch.int64, device=self._device)
        groups: dict[str, FinalGroupStep] = {}
        for name, group in self._groups.items():
            seen = [final.groups[name] for final in steps]
            masks = [step.action_masks for step in seen if step.action_masks is not None]
            nothing_masked = None if group.action_masks is None else group.action_masks[0, :0]
            groups[name] = FinalGroupStep(
                observations=torch.cat([step.observations for step in seen]) if seen else group.observations[0, :0],
                action_masks=torch.cat(masks) if masks else nothing_masked,
            )
        states = [final.state for final in steps if final.state is not None]
        return TrajectoryFinals(
            times=torch.cat(times) if times else nothing,
            envs=torch.cat([final.envs for final in steps]) if steps else nothing,
            groups=groups,
            state=torch.cat(states) if states else (None if self._state is None else self._state[0, :0]),
        )

    def _carry_over(self) -> None:
        for group in self._groups.values():
            group.observations[0].copy_(group.observations[-1])
            group.active[0].copy_(group.active[-1])
            if group.action_masks is not None:
                group.action_masks[0].copy_(group.action_masks[-1])
        if self._state is not None:
            self._state[0].copy_(self._state[-1])
        self._first[0].copy_(self._first[-1])
        self._finals.clear()
        self._time = 0


class TrajectoryAdder(Adder):
    """Writes every step of all groups into a TrajectoryDataset, as it is."""

    def __init__(self, dataset: TrajectoryDataset) -> None:
        self._dataset = dataset

    def add_first(self, timestep: TimeStep) -> None:
        self._dataset.write_first(timestep)

    def add(self, actions: Actions, extras: Mapping[str, State], timestep: TimeStep) -> None:
        self._dataset.write(actions, extras, timestep)


def _clone(final: FinalStep, device: torch.device | str) -> FinalStep:
    def kept(tensor: Tensor) -> Tensor:
        return tensor.to(device, copy=True)

    return FinalStep(
        envs=kept(final.envs),
        groups={
            name: FinalGroupStep(
                observations=kept(step.observations),
                action_masks=None if step.action_masks is None else kept(step.action_masks),
            )
            for name, step in final.groups.items()
        },
        state=None if final.state is None else kept(final.state),
    )
