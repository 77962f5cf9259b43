"""Many copies of one MPE task, stepped together: the batched ``VectorEnvironment``."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, cast

import numpy as np
import torch
from torch import Tensor

from marl.core import EnvironmentRequest, State, VectorEnvironment
from marl.envs.mpe.columns import Columns, _copies_last, _rows_first
from marl.envs.mpe.physics import World, WorldState
from marl.envs.mpe.task import Task, one_hot
from marl.errors import InputError
from marl.learning.compilation import can_compile, compile_function
from marl.specs import (
    ActionSpec,
    AgentSpec,
    ArraySpec,
    ContinuousActions,
    DiscreteActions,
    EnvironmentSpec,
    GroupSpec,
    group_agents,
)
from marl.streams import Stream
from marl.types import Actions, FinalGroupStep, FinalStep, GroupStep, TimeStep

Compile = bool | Literal["auto"]
"""Whether to compile the step; "auto": where a compiler is there and copies are many."""

_MOVES: Final = 5
"""Nothing, left, right, down, up."""
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
        task: what to play.
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
        self._layout = layout
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
        self._spread = self._column([1.0] * num_agents + [body.spread for body in layout.landmarks]).unsqueeze(1)
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
        sizes = [features for agents, features in self._blocks for _ in range(agents)]
        starts = [0, *itertools.accumulate(sizes)]

        self._specs = [
            AgentSpec(name=agent.name, observation=ArraySpec(shape=(size,)), action=self._action_spec(index))
            for index, (agent, size) in enumerate(zip(layout.agents, sizes, strict=True))
        ]
        groups = group_agents(self._specs, request.sharing)
        self.spec = EnvironmentSpec(groups=groups, state=ArraySpec(shape=(starts[-1],)) if request.with_state else None)
        self._index_controls(groups)

        self._observations = torch.zeros(num_envs, starts[-1], device=self._device)
        self._final_observations = torch.zeros_like(self._observations)
        self._rewards = torch.zeros(num_envs, num_agents, device=self._device)
        self._ending = {
            name: torch.zeros(num_envs, dtype=torch.bool, device=self._device)
            for name in ("first", "terminated", "truncated")
        }
        order = {agent.name: index for index, agent in enumerate(layout.agents)}
        self._members = {group.name: [order[agent] for agent in group.agents] for group in groups}
        self._starts = starts
        self._observation_columns = self._columns(self._observations)
        self._final_columns = self._columns(self._final_observations)
        self._reward_columns = {name: Columns(self._rewards, members, None) for name, members in self._members.items()}
        self._flags = {
            flag: {
                name: torch.full((num_envs, len(members)), flag, dtype=torch.bool, device=self._device)
                for name, members in self._members.items()
            }
            for flag in (False, True)
        }
        self._all = torch.full((num_envs,), True, device=self._device)
        self._none = torch.full((num_envs,), False, device=self._device)
        self._envs = torch.arange(num_envs)
        self._running = self._time_step(first=self._none, terminated=None, truncated=None, final=None)
        self._ended = self._time_step(
            first=self._all, terminated=None, truncated=self._flags[True], final=self._final_step(None)
        )
        self._current = self._running

        # All copies are in step as long as only truncation ends episodes; then two numbers tell where they are.
        self._in_step = not task.can_terminate
        self._cycle, self._episode = 0, -1
        self._cycles = np.zeros(num_envs, dtype=np.int64)
        self._episodes = np.full(num_envs, -1, dtype=np.int64)
        self._table = torch.empty(0)
        self._table_first = 0

        self._function: Callable[..., object] | None = None
        self._wants_compiling = self._decide(compile)
        self._written = (*self._state, self._observations, self._rewards)

    # --- stepping -----------------------------------------------------------------------------------------

    @torch.no_grad()
    def reset(self) -> TimeStep:
        """Begins a new episode in every copy."""
        self._begin_all()
        self._rewards.zero_()
        self._current = self._time_step(first=self._all, terminated=None, truncated=None, final=None)
        return self._current

    @torch.no_grad()
    def step(self, actions: Actions) -> TimeStep:
        """Takes one step in every copy."""
        if self._function is None:
            self._function = self._compiled() if self._wants_compiling else self._advance
        self._function(*[self._checked(group, actions[group.name]) for group in self.spec.groups], *self._written)
        self._refresh(self._reward_columns)
        if not self._in_step:
            self._current = self._end_some()
        elif self._cycle + 1 < self.task.max_cycles:
            self._cycle += 1
            self._refresh(self._observation_columns)
            self._current = self._running
        else:
            self._final_observations.copy_(self._observations)
            self._refresh(self._final_columns)
            self._begin_all()
            self._current = self._ended
        return self._current

    def current(self) -> TimeStep:
        """The newest time step once more; after ``load_env_state_dict``, the one that was saved."""
        return self._current

    def _advance(self, *tensors: Tensor) -> None:
        """Physics, rewards and observations of one step: the groups' actions, then what is written over."""
        num_groups = len(self.spec.groups)
        actions, (*fields, observations, rewards) = tensors[:num_groups], tensors[num_groups:]
        state = WorldState(*fields)
        moves, words = self._controls(state, actions)
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

    def _controls(self, state: WorldState, actions: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """What the groups' actions mean: moves (A, xy, E) and words (S, C, E)."""
        if self.task.continuous_actions:
            shares = torch.cat([action.flatten(1) for action in actions], dim=1).T.to(self._dtype)
            shares = (shares.clamp(-1.0, 1.0) + 1.0) / 2.0
            push = shares[self._move_columns]
            moves = torch.stack((push[:, 2] - push[:, 1], push[:, 4] - push[:, 3]), dim=1)
            return moves * self._moves_at_all, shares[self._word_columns]
        choices = (actions[0] if len(actions) == 1 else torch.cat(tuple(actions), dim=1)).T
        if self._choice_order is not None:
            choices = choices[self._choice_order]
        directions = choices
        words = state.communication
        if self._speakers is not None:
            directions = choices % _MOVES
            said = choices[self._speakers] // self._word_divisor
            words = one_hot(said, self._layout.num_words, self._dtype)
        right = (directions == 2).to(self._dtype) - (directions == 1).to(self._dtype)
        up = (directions == 4).to(self._dtype) - (directions == 3).to(self._dtype)
        # Who cannot move has no acceleration either, so its choice of a word moves nothing.
        return torch.stack((right, up), dim=1), words

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
        self._write(self._state, self._observations)
        self._refresh(self._observation_columns)

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
            self._refresh(self._observation_columns)
            return self._running
        self._final_observations.copy_(self._observations)
        self._refresh(self._final_columns)
        self._cycles[ended] = 0
        self._episodes[ended] += 1
        uniforms = self._stream.uniforms(torch.from_numpy(self._episodes).to(self._device), self._num_uniforms)[0]
        rows = torch.from_numpy(ended).to(self._device)
        for tensor, fresh in zip(self._state, self._fresh(uniforms), strict=True):
            tensor.index_copy_(-1, rows, fresh.expand(tensor.shape).index_select(-1, rows))
        self._write(self._state, self._observations)
        self._refresh(self._observation_columns)
        return self._step_of_endings(truncated=truncated, terminated=terminated)

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

    def _step_of_endings(
        self, *, truncated: np.ndarray[Any, np.dtype[np.bool_]], terminated: np.ndarray[Any, np.dtype[np.bool_]]
    ) -> TimeStep:
        for name, flags in (("truncated", truncated), ("terminated", terminated), ("first", truncated | terminated)):
            self._ending[name].copy_(torch.from_numpy(flags))
        envs = torch.from_numpy(np.flatnonzero(truncated | terminated))
        return self._time_step(
            first=self._ending["first"],
            terminated=self._per_agent("terminated"),
            truncated=self._per_agent("truncated"),
            final=self._final_step(envs) if envs.numel() else None,
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

    def advance_curriculum(self) -> None:
        """Goes to the next stage, if there is one."""
        self.set_curriculum_stage(self._stage + 1)

    # --- checkpoints --------------------------------------------------------------------------------------

    def state_dict(self) -> State:
        """The curriculum's stage."""
        return {"stage": torch.tensor(self._stage)}

    def load_state_dict(self, state: State) -> None:
        """Takes back the curriculum's stage."""
        self._stage = int(state["stage"])

    def env_state_dict(self) -> State:
        """Everything about the copies, one row each."""
        state = {name: _rows_first(tensor) for name, tensor in self._state._asdict().items()}
        if self._in_step:
            self._cycles[:], self._episodes[:] = self._cycle, self._episode
        step = self._current
        group = next(iter(step.groups))
        return {
            **state,
            "cycles": torch.from_numpy(self._cycles.copy()),
            "episodes": torch.from_numpy(self._episodes.copy()),
            "observations": self._observations.cpu().clone(),
            "final_observations": self._final_observations.cpu().clone(),
            "rewards": self._rewards.cpu().clone(),
            "first": step.first.cpu().clone(),
            "terminated": step.groups[group].terminated[:, 0].cpu().clone(),
            "truncated": step.groups[group].truncated[:, 0].cpu().clone(),
        }

    @torch.no_grad()
    def load_env_state_dict(self, state: State) -> None:
        """Takes back the rows of this rank's copies; raises KeyError or ValueError where they do not fit."""
        rows = {name: _copies_last(state[name]) for name in WorldState._fields}
        buffers = {
            "observations": self._observations,
            "final_observations": self._final_observations,
            "rewards": self._rewards,
        }
        for name, tensor in [*self._state._asdict().items(), *buffers.items()]:
            source = rows.get(name, state[name])
            if source.shape != tensor.shape:
                raise ValueError(f"{name} of a saved {self.task.name} has shape {tuple(state[name].shape)}")
            tensor.copy_(source)
        self._cycles[:] = state["cycles"].numpy()
        self._episodes[:] = state["episodes"].numpy()
        same = (self._cycles == self._cycles[0]).all() and (self._episodes == self._episodes[0]).all()
        self._in_step = bool(same) and not self.task.can_terminate
        self._cycle, self._episode = int(self._cycles[0]), int(self._episodes[0])
        for columns in (self._observation_columns, self._final_columns, self._reward_columns):
            self._refresh(columns)
        truncated, terminated = state["truncated"].numpy(), state["terminated"].numpy()
        self._current = self._step_of_endings(truncated=truncated, terminated=terminated)
        self._ending["first"].copy_(state["first"])

    # --- construction -------------------------------------------------------------------------------------

    def _column(self, values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=self._dtype, device=self._device).unsqueeze(-1)

    def _zeros(self, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=self._dtype, device=self._device)

    def _action_spec(self, index: int) -> ActionSpec:
        agent, words = self._layout.agents[index], self._layout.num_words
        if self.task.continuous_actions:
            size = _MOVES * agent.movable + words * (not agent.silent)
            return ContinuousActions(low=(0.0,) * size, high=(1.0,) * size)
        return DiscreteActions(num_actions=(_MOVES if agent.movable else 1) * (1 if agent.silent else words))

    def _index_controls(self, groups: Sequence[GroupSpec]) -> None:
        """Prepares where in the groups' actions, side by side, each agent's moves and words are."""
        agents, words = self._layout.agents, self._layout.num_words
        order = {agent.name: index for index, agent in enumerate(agents)}
        position: dict[int, int] = {}
        first_column: dict[int, int] = {}
        columns = 0
        for name in (name for group in groups for name in group.agents):
            index = order[name]
            position[index] = len(position)
            first_column[index] = columns
            action = self._specs[index].action
            columns += action.size if isinstance(action, ContinuousActions) else 1
        world_order = [position[index] for index in range(len(agents))]

        def indices(values: Sequence[Any], *shape: int) -> Tensor:
            return torch.tensor(values, dtype=torch.int64, device=self._device).reshape(*shape)

        speakers = self._layout.speakers
        self._choice_order = None if world_order == sorted(world_order) else indices(world_order, -1)
        self._speakers = indices(speakers, -1) if speakers else None
        self._word_divisor = indices([_MOVES if agents[index].movable else 1 for index in speakers], -1, 1)
        self._moves_at_all = self._column([float(agent.movable) for agent in agents]).unsqueeze(1)
        self._move_columns = indices(
            [
                [first_column[index] + move if agent.movable else 0 for move in range(_MOVES)]
                for index, agent in enumerate(agents)
            ],
            len(agents),
            _MOVES,
        )
        self._word_columns = indices(
            [
                [first_column[index] + _MOVES * agents[index].movable + word for word in range(words)]
                for index in speakers
            ],
            len(speakers),
            words,
        )

    def _columns(self, buffer: Tensor) -> dict[str, Columns]:
        return {
            group.name: Columns(
                buffer, [self._starts[index] for index in self._members[group.name]], group.observation.size
            )
            for group in self.spec.groups
        }

    @staticmethod
    def _refresh(columns: Mapping[str, Columns]) -> None:
        for column in columns.values():
            column.refresh()

    def _per_agent(self, flag: str) -> dict[str, Tensor]:
        return {
            name: self._ending[flag].unsqueeze(1).expand(-1, len(members)) for name, members in self._members.items()
        }

    def _time_step(
        self,
        *,
        first: Tensor,
        terminated: Mapping[str, Tensor] | None,
        truncated: Mapping[str, Tensor] | None,
        final: FinalStep | None,
    ) -> TimeStep:
        never = self._flags[False]
        return TimeStep(
            groups={
                name: GroupStep(
                    observations=self._observation_columns[name].tensor,
                    action_masks=None,
                    active=self._flags[True][name],
                    rewards=self._reward_columns[name].tensor,
                    terminated=(terminated or never)[name],
                    truncated=(truncated or never)[name],
                )
                for name in self._members
            },
            state=self._observations if self.spec.state is not None else None,
            first=first,
            final=final,
        )

    def _final_step(self, envs: Tensor | None) -> FinalStep:
        """The final observations of the given copies, or views of those of all."""
        rows: Tensor | slice = slice(None) if envs is None else envs.to(self._device)
        return FinalStep(
            envs=self._envs if envs is None else envs,
            groups={
                name: FinalGroupStep(observations=columns.tensor[rows], action_masks=None)
                for name, columns in self._final_columns.items()
            },
            state=self._final_observations[rows] if self.spec.state is not None else None,
        )

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
