"""A random environment made from a spec alone, the same on any number of ranks."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from marl.actions import legal_actions
from marl.core import State, VectorEnvironment
from marl.random_streams import Stream
from marl.specs import ArraySpec, ContinuousActions, EnvironmentSpec, GroupSpec
from marl.types import Actions, FinalGroupStep, FinalStep, GroupStep, TimeStep


class FakeVectorEnvironment(VectorEnvironment):
    """A random environment of any spec.

    Every number is a function of (seed, purpose, step, global copy), so copies do not depend on each other or on
    ranks. Episodes have random lengths, end for everybody at once or, with ``death_rate``, agent by agent, half of
    the time by truncation. Where the spec is turn-based one agent acts at a time, in the order of agents.

    Args:
        spec: of the environment.
        num_envs: environment copies, E.
        first_env: global index of the first of them.
        seed: of everything.
        purpose: part of the seed.
        episode_length: mean number of steps of an episode, unless everybody dies before.
        death_rate: probability that an agent that acts dies at a step.

    Raises:
        ValueError: from ``step``, if actions have another shape or dtype, or an active agent's action is illegal.
    """

    def __init__(
        self,
        spec: EnvironmentSpec,
        *,
        num_envs: int = 2,
        first_env: int = 0,
        seed: int = 0,
        purpose: str = "train",
        episode_length: int = 8,
        death_rate: float = 0.0,
    ) -> None:
        self.spec = spec
        self.num_envs = num_envs
        self._episode_length = episode_length
        self._death_rate = death_rate

        def stream(what: str) -> Stream:
            return Stream(seed, f"{purpose}/fake/{what}", first_env=first_env, num_envs=num_envs)

        self._ends, self._lengths, self._states = stream("ends"), stream("lengths"), stream("states")
        self._first_states = stream("first states")
        self._seen = {group.name: stream(f"observations/{group.name}") for group in spec.groups}
        self._seen_first = {group.name: stream(f"first observations/{group.name}") for group in spec.groups}
        self._legal = {group.name: stream(f"masks/{group.name}") for group in spec.groups}
        self._legal_first = {group.name: stream(f"first masks/{group.name}") for group in spec.groups}
        self._paid = {group.name: stream(f"rewards/{group.name}") for group in spec.groups}
        self._clock = -1
        self._age = torch.zeros(num_envs, dtype=torch.int64)
        self._length = torch.zeros(num_envs, dtype=torch.int64)
        self._alive = torch.zeros((num_envs, sum(group.size for group in spec.groups)), dtype=torch.bool)
        self._timestep: TimeStep | None = None

    def reset(self) -> TimeStep:
        """Begins a new episode in every copy."""
        self._clock += 1
        everyone = torch.ones(self.num_envs, dtype=torch.bool)
        nothing = {
            group.name: GroupStep(
                observations=_zeros(self.num_envs, group.size, group.observation),
                action_masks=self._masks(group, self._legal_first) if group.masked else None,
                active=torch.zeros((self.num_envs, group.size), dtype=torch.bool),
                rewards=torch.zeros((self.num_envs, group.size)),
                terminated=torch.zeros((self.num_envs, group.size), dtype=torch.bool),
                truncated=torch.zeros((self.num_envs, group.size), dtype=torch.bool),
            )
            for group in self.spec.groups
        }
        state = None if self.spec.state is None else _zeros(self.num_envs, None, self.spec.state)
        self._timestep = self._begin(everyone, nothing, state, None)
        return self._timestep

    def step(self, actions: Actions) -> TimeStep:
        """Takes one step in every copy."""
        before = self.current()
        self._check(actions, before)
        self._clock += 1
        self._age += 1
        alive = self._alive
        acting = torch.cat([before.groups[group.name].active for group in self.spec.groups], dim=-1)
        words = self._ends.uniforms(self._clock, 2 * alive.shape[1] + 1)[0]
        deadly, kinds = words[:, 1:].chunk(2, dim=-1)
        over = self._age >= self._length
        died = alive & ((acting & (deadly < self._death_rate)) | over[:, None])
        over = ~(alive & ~died).any(-1)
        # An episode that ends by its length ends in one way for everybody.
        cut = torch.where((self._age >= self._length)[:, None], words[:, :1] < 0.5, kinds < 0.5)
        self._alive = alive & ~died
        groups, finals, offset = {}, {}, 0
        for group in self.spec.groups:
            columns = slice(offset, offset + group.size)
            offset += group.size
            old = before.groups[group.name]
            fresh = self._observations(group, self._seen)
            seen = self._active()[:, columns] | died[:, columns]
            observations = torch.where(_expand(seen, fresh), fresh, old.observations)
            masks = self._masks(group, self._legal) if group.masked else None
            groups[group.name] = GroupStep(
                observations=observations,
                action_masks=masks,
                active=self._active()[:, columns],
                rewards=self._paid[group.name].normals(self._clock, group.size)[0] * alive[:, columns],
                terminated=died[:, columns] & ~cut[:, columns],
                truncated=died[:, columns] & cut[:, columns],
            )
            finals[group.name] = FinalGroupStep(
                observations=observations[over], action_masks=None if masks is None else masks[over]
            )
        state = None if self.spec.state is None else _draw(self._states, self._clock, None, self.spec.state)
        final = None
        if over.any():
            final = FinalStep(
                envs=over.nonzero()[:, 0], groups=finals, state=None if state is None else state[over].clone()
            )
        self._timestep = self._begin(over, groups, state, final)
        return self._timestep

    def current(self) -> TimeStep:
        """The newest time step."""
        if self._timestep is None:
            raise ValueError("reset must be called first")
        return self._timestep

    def env_state_dict(self) -> State:
        """The whole state, one row a copy."""
        timestep = self.current()
        state = {
            "clock": torch.full((self.num_envs,), self._clock),
            "age": self._age.clone(),
            "length": self._length.clone(),
            "alive": self._alive.clone(),
            "first": timestep.first.clone(),
        }
        if timestep.state is not None:
            state["state"] = timestep.state.clone()
        for name, group in timestep.groups.items():
            for field in dataclasses.fields(group):
                if getattr(group, field.name) is not None:
                    state[f"{field.name}.{name}"] = getattr(group, field.name).clone()
        return state

    def load_env_state_dict(self, state: State) -> None:
        self._clock = int(state["clock"][0])
        self._age, self._length, self._alive = (state[name].clone() for name in ("age", "length", "alive"))
        self._timestep = TimeStep(
            groups={
                group.name: GroupStep(
                    **{
                        field.name: state[f"{field.name}.{group.name}"].clone()
                        if f"{field.name}.{group.name}" in state
                        else None
                        for field in dataclasses.fields(GroupStep)
                    }  # type: ignore[arg-type]
                )
                for group in self.spec.groups
            },
            state=state["state"].clone() if "state" in state else None,
            first=state["first"].clone(),
            final=None,
        )

    def _begin(
        self, envs: Tensor, groups: dict[str, GroupStep], state: Tensor | None, final: FinalStep | None
    ) -> TimeStep:
        """The time step in which the given copies begin an episode, and the others are as they are."""
        lengths = self._lengths.words(self._clock, 1)[0, :, 0] % (2 * self._episode_length - 1) + 1
        self._age = torch.where(envs, 0, self._age)
        self._length = torch.where(envs, lengths, self._length)
        self._alive = self._alive | envs[:, None]
        begun, offset = {}, 0
        for group in self.spec.groups:
            old = groups[group.name]
            active = self._active()[:, offset : offset + group.size]
            offset += group.size
            first = self._observations(group, self._seen_first)
            first = torch.where(_expand(active, first), first, torch.zeros_like(first))
            masks = old.action_masks
            if masks is not None:
                masks = torch.where(envs[:, None, None], self._masks(group, self._legal_first), masks)
            begun[group.name] = dataclasses.replace(
                old,
                observations=torch.where(_expand(envs[:, None], first), first, old.observations),
                action_masks=masks,
                active=active,
            )
        if state is not None and self.spec.state is not None:
            first_state = _draw(self._first_states, self._clock, None, self.spec.state)
            state = torch.where(_expand(envs, state), first_state, state)
        return TimeStep(groups=begun, state=state, first=envs.clone(), final=final)

    def _active(self) -> Tensor:
        if not self.spec.turn_based:
            return self._alive.clone()
        # The age-th of those who live, counted round.
        rank = self._alive.cumsum(-1)
        wanted = self._age % rank[:, -1].clamp(min=1) + 1
        return self._alive & (rank == wanted[:, None])

    def _observations(self, group: GroupSpec, streams: dict[str, Stream]) -> Tensor:
        return _draw(streams[group.name], self._clock, group.size, group.observation)

    def _masks(self, group: GroupSpec, streams: dict[str, Stream]) -> Tensor:
        assert not isinstance(group.action, ContinuousActions)
        size, nvec = group.action.mask_size, group.action.nvec
        words = streams[group.name].words(self._clock, group.size * (size + len(nvec)))[0]
        words = words.view(self.num_envs, group.size, size + len(nvec))
        legal = (words[..., :size] & 64).bool()
        offset = 0
        for index, count in enumerate(nvec):
            one = words[..., size + index] % count + offset
            legal.scatter_(-1, one[..., None], torch.ones_like(one[..., None], dtype=torch.bool))
            offset += count
        return legal

    def _check(self, actions: Actions, before: TimeStep) -> None:
        if sorted(actions) != [group.name for group in self.spec.groups]:
            raise ValueError(f"actions are for {sorted(actions)}, not for the spec's groups")
        for group in self.spec.groups:
            tensor, spec = actions[group.name], group.action.array
            expected = (self.num_envs, group.size, *spec.shape)
            if tuple(tensor.shape) != expected or tensor.dtype != spec.dtype:
                raise ValueError(
                    f"actions of {group.name} are {tuple(tensor.shape)} {tensor.dtype}, not {expected} {spec.dtype}"
                )
            active = before.groups[group.name].active
            legal = legal_actions(group.action, tensor, before.groups[group.name].action_masks)
            if (active & ~legal).any():
                env, agent = (active & ~legal).nonzero()[0].tolist()
                raise ValueError(
                    f"{group.agents[agent]} took an illegal action in copy {env}: {tensor[env, agent].tolist()}"
                )


def _zeros(num_envs: int, agents: int | None, spec: ArraySpec) -> Tensor:
    shape = (num_envs, *spec.shape) if agents is None else (num_envs, agents, *spec.shape)
    return torch.zeros(shape, dtype=spec.dtype)


def _draw(stream: Stream, step: int, agents: int | None, spec: ArraySpec) -> Tensor:
    """Random numbers of a spec: (E, *shape) or (E, A, *shape)."""
    count = spec.size * (1 if agents is None else agents)
    shape = (-1, *spec.shape) if agents is None else (-1, agents, *spec.shape)
    if spec.dtype == torch.float32:
        return (2 * stream.uniforms(step, count)[0] - 1).view(shape)
    return (stream.words(step, count)[0] & 127).to(spec.dtype).view(shape)


def _expand(flags: Tensor, target: Tensor) -> Tensor:
    """Adds dimensions of size 1 until the flags broadcast with the target."""
    return flags.view(*flags.shape, *(1,) * (target.dim() - flags.dim()))
