"""E copies of one MPE task, stepped together: the batched ``VectorEnvironment``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal, cast

import numpy as np
import torch
from torch import Tensor

from marl.core import EnvironmentRequest, State, VectorEnvironment
from marl.envs.mpe.columns import envs_first, envs_last
from marl.envs.mpe.controls import Controls, action_spec
from marl.envs.mpe.physics import World, WorldState
from marl.envs.mpe.task import Task
from marl.envs.mpe.time_steps import TimeSteps
from marl.errors import InputError
from marl.learning.compilation import can_compile, compile_function
from marl.random_streams import Stream
from marl.specs import AgentSpec, ArraySpec, EnvironmentSpec, GroupSpec, group_agents
from marl.types import Actions, TimeStep

Compile = bool | Literal["auto"]
"""True compiles the step, False does not, "auto" does where there is a compiler and there are many copies."""

_COMPILE_FROM: Final = 64
"""Copies from which compiling pays in a run of minutes."""
_ONE_THREAD_BELOW: Final = 2048
"""Copies below which a second thread costs more than it brings."""
_TABLE: Final = 32_768
"""Random numbers drawn at once for coming resets."""


class BatchedMPE(VectorEnvironment):
    """E copies of one MPE task on one device; see ``marl.types.TimeStep`` for what a step returns.

    Equal in distribution to ``mpe2``'s task, and equal in every number from equal states. Resets draw from the
    seed, the purpose, the global index of the copy and the number of its episode, so they do not depend on how
    copies are split over ranks. ``state`` is mpe2's ``state()``: all observations, in ``possible_agents`` order.

    Args:
        task: the task.
        request: number and place of the copies, seed, sharing.
        device: where everything lives.
        dtype: of the physics; observations and rewards are float32 as in mpe2.
        compile: whether the step is one kernel of torch's compiler, made at the first step; the numbers agree up
            to rounding. "auto" depends on the number of copies only, so a resumed run does the same again.

    Raises:
        InputError: compiling was asked for and there is no C++ compiler.
    """

    def __init__(
        self,
        task: Task,
        request: EnvironmentRequest,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        compile: Compile = "auto",
    ) -> None:
        self.task = task
        self.num_envs = request.num_envs
        self._device = torch.device(device)
        self._dtype = dtype
        layout = task.layout()
        self._world = World(layout, dtype=dtype, device=self._device)
        self._stream = Stream(
            request.seed,
            f"environment/{request.purpose}",
            first_env=request.first_env,
            num_envs=request.num_envs,
            device=self._device,
        )
        num_agents, num_envs = len(layout.agents), request.num_envs
        bodies = num_agents + len(layout.landmarks)
        self._num_uniforms = 2 * bodies + len(task.goal_choices)
        spread = [1.0] * num_agents + [body.spread for body in layout.landmarks]
        self._spread = torch.tensor(spread, dtype=dtype, device=self._device).view(-1, 1, 1)
        self._choices = torch.tensor(task.goal_choices, device=self._device).unsqueeze(-1)
        self._stage = 0
        self._state = WorldState(
            position=self._zeros(bodies, 2, num_envs),
            velocity=self._zeros(num_agents, 2, num_envs),
            communication=self._zeros(len(layout.speakers), layout.num_words, num_envs),
            goals=torch.zeros(len(task.goal_choices), num_envs, dtype=torch.int64, device=self._device),
            difficulty=torch.full((num_envs,), self._difficulty, dtype=dtype, device=self._device),
        )
        with torch.no_grad():
            blocks = task.observations(self._state)
        self._blocks = [(block.shape[0], block.shape[1]) for block in blocks]
        features = [features for agents, features in self._blocks for _ in range(agents)]
        sizes = {agent.name: size for agent, size in zip(layout.agents, features, strict=True)}
        continuous = task.continuous_actions
        agents = [
            AgentSpec(
                name=agent.name,
                observation=ArraySpec(shape=(sizes[agent.name],)),
                action=action_spec(agent, num_words=layout.num_words, continuous=continuous),
            )
            for agent in layout.agents
        ]
        groups = group_agents(agents, request.sharing)
        state = ArraySpec(shape=(sum(sizes.values()),)) if request.with_state else None
        self.spec = EnvironmentSpec(groups=groups, state=state)
        self._controls = Controls(layout, groups, continuous=continuous, dtype=dtype, device=self._device)
        self._steps = TimeSteps(self.spec, sizes, num_envs=num_envs, device=self._device)
        self._current = self._steps.running

        # All copies are in step as long as only truncation ends episodes; then two numbers tell where they are.
        self._in_step = not task.can_terminate
        self._cycle, self._episode = 0, -1
        self._cycles = np.zeros(num_envs, dtype=np.int64)
        self._episodes = np.full(num_envs, -1, dtype=np.int64)
        self._table = torch.empty(0)
        self._table_first = 0

        self._function: Callable[..., object] | None = None
        self._wants_compiling = self._decide(compile)
        self._written = (*self._state, self._steps.observations, self._steps.rewards)

    # --- stepping -----------------------------------------------------------------------------------------

    @torch.no_grad()
    def reset(self) -> TimeStep:
        self._begin_all()
        self._steps.rewards.zero_()
        self._current = self._steps.begun
        return self._current

    @torch.no_grad()
    def step(self, actions: Actions) -> TimeStep:
        if self._function is None:
            self._function = self._compiled() if self._wants_compiling else self._advance
        self._function(*[self._checked(group, actions[group.name]) for group in self.spec.groups], *self._written)
        self._steps.refresh_rewards()
        if not self._in_step:
            self._current = self._end_some()
        elif self._cycle + 1 < self.task.max_cycles:
            self._cycle += 1
            self._steps.refresh_observations()
            self._current = self._steps.running
        else:
            self._steps.keep_final()
            self._begin_all()
            self._current = self._steps.all_truncated
        return self._current

    def current(self) -> TimeStep:
        """The newest time step once more; after ``load_env_state_dict``, the one that was saved."""
        return self._current

    def _advance(self, *tensors: Tensor) -> None:
        """Physics, rewards and observations of one step: the groups' actions, then the tensors that are overwritten."""
        num_groups = len(self.spec.groups)
        actions, (*fields, observations, rewards) = tensors[:num_groups], tensors[num_groups:]
        state = WorldState(*fields)
        moves, words = self._controls(actions, state.communication)
        after = self._world.step(state, moves, words, self.task.speed_factor(state))
        rewards.copy_(self.task.rewards(after).T)
        self._write(after, observations)
        num_agents = self._world.num_agents
        state.position[:num_agents].copy_(after.position[:num_agents])
        state.velocity.copy_(after.velocity)
        state.communication.copy_(after.communication)

    def _checked(self, group: GroupSpec, actions: Tensor) -> Tensor:
        """The actions as the compiled function, which trusts its arguments, needs them."""
        array = group.action.array
        if actions.shape != (self.num_envs, group.size, *array.shape):
            raise ValueError(
                f"actions of {group.name} have shape {tuple(actions.shape)}, "
                f"not {(self.num_envs, group.size, *array.shape)}"
            )
        return actions.to(device=self._device, dtype=array.dtype).contiguous()

    def _write(self, state: WorldState, observations: Tensor) -> None:
        start = 0
        for (agents, features), block in zip(self._blocks, self.task.observations(state), strict=True):
            target = observations[:, start : start + agents * features].unflatten(1, (agents, features))
            target.copy_(block.permute(2, 0, 1))
            start += agents * features

    # --- episodes -----------------------------------------------------------------------------------------

    def _begin_all(self) -> None:
        """Begins the next episode in every copy."""
        if self._in_step:
            self._cycle = 0
            self._episode += 1
            row = self._episode - self._table_first
            if not 0 <= row < self._table.shape[0]:
                self._table_first = self._episode
                rows = max(1, _TABLE // (self.num_envs * self._num_uniforms))
                self._table = self._stream.uniforms(self._episode, self._num_uniforms, rows=rows)
                row = 0
            uniforms = self._table[row]
        else:
            self._cycles[:] = 0
            self._episodes += 1
            uniforms = self._stream.uniforms(torch.from_numpy(self._episodes).to(self._device), self._num_uniforms)[0]
        for tensor, fresh in zip(self._state, self._fresh(uniforms), strict=True):
            tensor.copy_(fresh)
        self._write(self._state, self._steps.observations)
        self._steps.refresh_observations()

    def _end_some(self) -> TimeStep:
        """Ends and begins episodes where each copy is at its own place."""
        self._cycles += 1
        truncated = self._cycles >= self.task.max_cycles
        terminated = np.zeros_like(truncated)
        if self.task.can_terminate:
            # The one place where the host must wait for the device: ends are known there only.
            terminated = self.task.succeeded(self._state).cpu().numpy() & ~truncated
        ended = np.flatnonzero(truncated | terminated)
        if not ended.size:
            self._steps.refresh_observations()
            return self._steps.running
        self._steps.keep_final()
        self._cycles[ended] = 0
        self._episodes[ended] += 1
        uniforms = self._stream.uniforms(torch.from_numpy(self._episodes).to(self._device), self._num_uniforms)[0]
        rows = torch.from_numpy(ended).to(self._device)
        for tensor, fresh in zip(self._state, self._fresh(uniforms), strict=True):
            tensor.index_copy_(-1, rows, fresh.expand(tensor.shape).index_select(-1, rows))
        self._write(self._state, self._steps.observations)
        self._steps.refresh_observations()
        return self._steps.with_endings(truncated=truncated, terminated=terminated)

    def _fresh(self, uniforms: Tensor) -> WorldState:
        """The first state of episodes: (E, count) uniform numbers → positions and goals; all else is zero."""
        numbers = uniforms.T.to(self._dtype)
        bodies = self._spread.shape[0]
        position = (numbers[: 2 * bodies].unflatten(0, (bodies, 2)) * 2.0 - 1.0) * self._spread
        return WorldState(
            position=position,
            velocity=torch.zeros_like(self._state.velocity),
            communication=torch.zeros_like(self._state.communication),
            goals=(numbers[2 * bodies :] * self._choices).to(torch.int64),
            difficulty=torch.full_like(self._state.difficulty, self._difficulty),
        )

    # --- curriculum ---------------------------------------------------------------------------------------

    @property
    def _difficulty(self) -> float:
        stages = self.task.stages
        return stages[self._stage] if stages else 1.0

    @property
    def curriculum_stage(self) -> int:
        """The curriculum's stage, counted from 0; without a curriculum it changes nothing."""
        return self._stage

    @torch.no_grad()
    def set_curriculum_stage(self, stage: int) -> None:
        """Goes to a stage, or to the nearest that there is; when it counts from is the task's choice, as in mpe2."""
        self._stage = max(0, min(stage, len(self.task.stages) - 1))
        if not self.task.stage_waits:
            self._state.difficulty.fill_(self._difficulty)

    # --- checkpoints --------------------------------------------------------------------------------------

    def state_dict(self) -> State:
        """The curriculum's stage."""
        return {"stage": torch.tensor(self._stage)}

    def load_state_dict(self, state: State) -> None:
        """Takes back the curriculum's stage."""
        self._stage = int(state["stage"])

    def env_state_dict(self) -> State:
        """Everything about the copies, one row each."""
        if self._in_step:
            self._cycles[:], self._episodes[:] = self._cycle, self._episode
        return {
            **{name: envs_first(tensor) for name, tensor in self._state._asdict().items()},
            "cycles": torch.from_numpy(self._cycles.copy()),
            "episodes": torch.from_numpy(self._episodes.copy()),
            **self._steps.save(self._current),
        }

    @torch.no_grad()
    def load_env_state_dict(self, state: State) -> None:
        """Takes back the rows of this rank's copies; raises KeyError or ValueError where they do not fit."""
        rows = {name: envs_last(state[name]) for name in WorldState._fields}
        for name, tensor in [*self._state._asdict().items(), *self._steps.buffers().items()]:
            source = rows.get(name, state[name])
            if source.shape != tensor.shape:
                raise ValueError(f"{name} of a saved {self.task.name} has shape {tuple(state[name].shape)}")
            tensor.copy_(source)
        self._cycles[:] = state["cycles"].numpy()
        self._episodes[:] = state["episodes"].numpy()
        same = (self._cycles == self._cycles[0]).all() and (self._episodes == self._episodes[0]).all()
        self._in_step = bool(same) and not self.task.can_terminate
        self._cycle, self._episode = int(self._cycles[0]), int(self._episodes[0])
        self._current = self._steps.load(state)

    # --- construction -------------------------------------------------------------------------------------

    def _zeros(self, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=self._dtype, device=self._device)

    def _decide(self, compile: Compile) -> bool:
        able = can_compile(self._device)
        large = self._device.type == "cpu" and self.num_envs >= _COMPILE_FROM  # on a GPU it was not measured
        if compile is True and not able:
            raise InputError(f"no compiler for {self._device.type} was found; use compile=False, which runs eagerly")
        return able and (compile is True or (compile == "auto" and large))

    def _compiled(self) -> Callable[..., object]:
        """``_advance`` as one kernel.

        Shapes are fixed here, so the graph is traced once and handed to torch's compiler; ``torch.compile`` would
        check at every call what cannot change, which takes longer than the kernel.
        """
        actions = [
            torch.zeros(
                self.num_envs,
                group.size,
                *group.action.array.shape,
                dtype=group.action.array.dtype,
                device=self._device,
            )
            for group in self.spec.groups
        ]
        examples: list[Any] = [*actions, *(tensor.clone() for tensor in self._written)]
        threads = 1 if self.num_envs < _ONE_THREAD_BELOW else None
        return cast("Callable[..., object]", compile_function(self._advance, examples, threads=threads))
