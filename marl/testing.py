"""Fakes made from a spec, and conformance checks of environments: shipped, and run on everything there is."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor

from marl.core import EnvironmentFactory, EnvironmentRequest, State, VectorEnvironment
from marl.specs import (
    ActionSpec,
    ArraySpec,
    ContinuousActions,
    DiscreteActions,
    EnvironmentSpec,
    GroupSpec,
)
from marl.streams import Stream
from marl.types import Actions, FinalGroupStep, FinalStep, GroupStep, TimeStep


class ConformanceError(AssertionError):
    """What is promised and does not hold; says which promise, where, and what was found."""

    def __init__(self, rule: str, detail: str) -> None:
        self.rule = rule
        super().__init__(f"{rule}: {detail}")


class RandomActions:
    """Uniformly random legal actions; those of a copy depend on its global index and the step only.

    Args:
        spec: the environment's spec.
        num_envs: copies, E.
        first_copy: global index of the first of them.
        seed: of the actions.
    """

    def __init__(self, spec: EnvironmentSpec, *, num_envs: int, first_copy: int = 0, seed: int = 0) -> None:
        self._spec = spec
        self._streams = {
            group.name: Stream(seed, f"random actions/{group.name}", first_copy=first_copy, num_copies=num_envs)
            for group in spec.groups
        }
        self.steps = 0

    def __call__(self, timestep: TimeStep) -> Actions:
        """Actions for every group, (E, A, *action shape)."""
        actions = {}
        for group in self._spec.groups:
            width = group.size * max(1, group.action.array.size)
            uniforms = self._streams[group.name].uniforms(self.steps, width)[0]
            uniforms = uniforms.view(-1, group.size, max(1, group.action.array.size))
            masks = timestep.groups[group.name].action_masks
            device = timestep.groups[group.name].active.device
            actions[group.name] = random_actions(group.action, uniforms.to(device), masks)
        self.steps += 1
        return actions


def random_actions(spec: ActionSpec, uniforms: Tensor, masks: Tensor | None) -> Tensor:
    """Legal actions from uniform numbers.

    Args:
        spec: the agents' action spec.
        uniforms: (..., K) in (0, 1), one number for each of the K choices or dimensions.
        masks: (..., mask size) bool, or None.

    Returns:
        (...) int64, (..., K) int64 or (..., K) float32, as the spec says.
    """
    if isinstance(spec, ContinuousActions):
        return 2 * uniforms - 1
    nvec = (spec.num_actions,) if isinstance(spec, DiscreteActions) else spec.nvec
    if masks is None:
        masks = torch.ones((*uniforms.shape[:-1], sum(nvec)), dtype=torch.bool, device=uniforms.device)
    choices = []
    for index, legal in enumerate(masks.split(nvec, dim=-1)):
        rank = legal.cumsum(-1)
        # The k-th legal action, k uniform in 1 … number of legal ones.
        wanted = (uniforms[..., index] * rank[..., -1]).long() + 1
        choices.append((rank >= wanted[..., None]).int().argmax(-1))
    return choices[0] if isinstance(spec, DiscreteActions) else torch.stack(choices, dim=-1)


class FakeVectorEnvironment(VectorEnvironment):
    """A random environment of any spec, for tests.

    Every number is a function of (seed, purpose, step, global copy), so copies do not depend on each other or on
    ranks. Episodes have random lengths, end for everybody at once or, with ``death_rate``, agent by agent, half of
    the time by truncation. Where the spec is turn-based one agent acts at a time, in the order of agents.

    Args:
        spec: what it looks like.
        num_envs: copies, E.
        first_copy: global index of the first of them.
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
        first_copy: int = 0,
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
            return Stream(seed, f"{purpose}/fake/{what}", first_copy=first_copy, num_copies=num_envs)

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
                copies=over.nonzero()[:, 0], groups=finals, state=None if state is None else state[over].clone()
            )
        self._timestep = self._begin(over, groups, state, final)
        return self._timestep

    def current(self) -> TimeStep:
        """The newest time step."""
        if self._timestep is None:
            raise ValueError("reset must be called first")
        return self._timestep

    def copies_state_dict(self) -> State:
        """Everything, one row a copy."""
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
            for field, tensor in _fields(group):
                state[f"{field}.{name}"] = tensor.clone()
        return state

    def load_copies_state_dict(self, state: State) -> None:
        """Takes back what ``copies_state_dict`` gave."""
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
        self, copies: Tensor, groups: dict[str, GroupStep], state: Tensor | None, final: FinalStep | None
    ) -> TimeStep:
        """The time step in which the given copies begin an episode, and the others are as they are."""
        lengths = self._lengths.words(self._clock, 1)[0, :, 0] % (2 * self._episode_length - 1) + 1
        self._age = torch.where(copies, 0, self._age)
        self._length = torch.where(copies, lengths, self._length)
        self._alive = self._alive | copies[:, None]
        begun, offset = {}, 0
        for group in self.spec.groups:
            old = groups[group.name]
            active = self._active()[:, offset : offset + group.size]
            offset += group.size
            first = self._observations(group, self._seen_first)
            first = torch.where(_expand(active, first), first, torch.zeros_like(first))
            masks = old.action_masks
            if masks is not None:
                masks = torch.where(copies[:, None, None], self._masks(group, self._legal_first), masks)
            begun[group.name] = dataclasses.replace(
                old,
                observations=torch.where(_expand(copies[:, None], first), first, old.observations),
                action_masks=masks,
                active=active,
            )
        if state is not None and self.spec.state is not None:
            first_state = _draw(self._first_states, self._clock, None, self.spec.state)
            state = torch.where(_expand(copies, state), first_state, state)
        return TimeStep(groups=begun, state=state, first=copies.clone(), final=final)

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
        if isinstance(group.action, ContinuousActions):
            raise ValueError(f"{group.name} is masked, but its actions are continuous")
        size = group.action.mask_size
        nvec = (group.action.num_actions,) if isinstance(group.action, DiscreteActions) else group.action.nvec
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
                copy, agent = (active & ~legal).nonzero()[0].tolist()
                raise ValueError(
                    f"{group.agents[agent]} took an illegal action in copy {copy}: {tensor[copy, agent].tolist()}"
                )


def legal_actions(spec: ActionSpec, actions: Tensor, masks: Tensor | None) -> Tensor:
    """Whether actions are within bounds and legal: (...) bool from (..., *action shape) and (..., mask size)."""
    if isinstance(spec, ContinuousActions):
        return torch.isfinite(actions).all(-1)
    nvec = (spec.num_actions,) if isinstance(spec, DiscreteActions) else spec.nvec
    choices = actions[..., None] if isinstance(spec, DiscreteActions) else actions
    limits = torch.tensor(nvec, device=actions.device)
    legal = ((choices >= 0) & (choices < limits)).all(-1)
    if masks is not None:
        offsets = limits.cumsum(0) - limits
        legal &= masks.gather(-1, choices.clamp(min=0).minimum(limits - 1) + offsets).all(-1)
    return legal


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


def _expand(flags: Tensor, like: Tensor) -> Tensor:
    return flags.view(*flags.shape, *(1,) * (like.dim() - flags.dim()))


def _fields(group: GroupStep | FinalGroupStep) -> Iterator[tuple[str, Tensor]]:
    for field in dataclasses.fields(group):
        value = getattr(group, field.name)
        if value is not None:
            yield field.name, value


def tensors_of(timestep: TimeStep, *, final: bool = True) -> dict[str, Tensor]:
    """Copies of all tensors of a time step by dotted names, to compare or keep."""
    tensors = {"first": timestep.first.clone()}
    if timestep.state is not None:
        tensors["state"] = timestep.state.clone()
    for name, group in timestep.groups.items():
        tensors |= {f"{name}.{field}": tensor.clone() for field, tensor in _fields(group)}
    if final and timestep.final is not None:
        tensors["final.copies"] = timestep.final.copies.clone()
        if timestep.final.state is not None:
            tensors["final.state"] = timestep.final.state.clone()
        for name, last in timestep.final.groups.items():
            tensors |= {f"final.{name}.{field}": tensor.clone() for field, tensor in _fields(last)}
    return tensors


def check_environment(factory: EnvironmentFactory, steps: int = 64, *, seed: int = 0) -> None:
    """Plays random legal actions and checks all that ``marl.types`` and ``marl.core`` promise of environments.

    Args:
        factory: makes the environment; called several times.
        steps: how many steps each check takes.
        seed: of episodes and actions.

    Raises:
        ConformanceError: a promise does not hold; says which, where, and what was found.
    """
    check_timesteps(factory, steps, seed=seed)
    check_determinism(factory, steps, seed=seed)
    check_independence(factory, steps, seed=seed)
    check_resume(factory, steps, seed=seed)


def check_timesteps(factory: EnvironmentFactory, steps: int = 64, *, seed: int = 0, num_envs: int = 3) -> None:
    """Shapes, dtypes, finite numbers; who is active; masks; endings and last observations."""
    environment = factory(EnvironmentRequest(num_envs=num_envs, seed=seed))
    try:
        if environment.num_envs != num_envs:
            raise ConformanceError("num_envs is what was requested", f"it is {environment.num_envs}, not {num_envs}")
        spec = environment.spec
        choose = RandomActions(spec, num_envs=num_envs, seed=seed)
        timestep = environment.reset()
        _check_arrays(spec, timestep, num_envs)
        _demand(bool(timestep.first.all()), "reset begins an episode in every copy", "first is not all True")
        _demand(timestep.final is None, "reset has no last observations", "final is not None")
        for name, group in timestep.groups.items():
            quiet = not (group.rewards.any() or group.terminated.any() or group.truncated.any())
            _demand(quiet, "after reset rewards and endings are zero", f"those of {name} are not")
        living = {name: group.active.clone() for name, group in timestep.groups.items()}
        dead = {name: torch.zeros_like(active) for name, active in living.items()}
        for step in range(steps):
            acted = {name: group.active.clone() for name, group in timestep.groups.items()}
            timestep = environment.step(choose(timestep))
            _check_arrays(spec, timestep, num_envs)
            _check_endings(spec, timestep, acted, dead, step)
    finally:
        environment.close()


def check_determinism(factory: EnvironmentFactory, steps: int = 64, *, seed: int = 0, num_envs: int = 2) -> None:
    """Equal seeds and actions give equal time steps, bit for bit."""
    rule = "equal seeds and actions give equal steps"
    runs = [_rollout(factory, EnvironmentRequest(num_envs=num_envs, seed=seed), steps, seed) for _ in range(2)]
    for step, (one, other) in enumerate(zip(*runs, strict=True)):
        _compare(one, other, rule, f"after {step} steps")


def check_independence(factory: EnvironmentFactory, steps: int = 64, *, seed: int = 0) -> None:
    """Four copies in one environment equal the same copies two by two in two: nothing depends on ranks."""
    rule = "a copy does not depend on the copies beside it"
    whole = _rollout(factory, EnvironmentRequest(num_envs=4, seed=seed), steps, seed)
    halves = [
        _rollout(factory, EnvironmentRequest(num_envs=2, first_copy=first, seed=seed), steps, seed) for first in (0, 2)
    ]
    for step, (one, low, high) in enumerate(zip(whole, *halves, strict=True)):
        for name, tensor in one.items():
            if not name.startswith("final."):
                together = torch.cat([low[name], high[name]])
                _compare({name: tensor}, {name: together}, rule, f"after {step} steps")


def check_resume(factory: EnvironmentFactory, steps: int = 64, *, seed: int = 0) -> None:
    """What ``copies_state_dict`` gave goes on alike in fresh environments, also with the rows spread otherwise.

    Environments that save nothing are let pass: they cannot be resumed within an episode.
    """
    rule = "an environment that was saved and loaded goes on alike"
    original = factory(EnvironmentRequest(num_envs=4, seed=seed))
    others = [factory(EnvironmentRequest(num_envs=2, first_copy=first, seed=seed)) for first in (0, 2)]
    try:
        choose = RandomActions(original.spec, num_envs=4, seed=seed)
        timestep = original.reset()
        for _ in range(steps // 2):
            timestep = original.step(choose(timestep))
        saved = original.copies_state_dict()
        if not saved:
            return
        for name, tensor in saved.items():
            _demand(tensor.shape[:1] == (4,), "saved tensors have one row a copy", f"{name} is {tuple(tensor.shape)}")
        selectors = []
        resumed = []
        for index, other in enumerate(others):
            other.load_copies_state_dict({name: tensor[2 * index : 2 * index + 2] for name, tensor in saved.items()})
            resumed.append(other.current())
            selector = RandomActions(original.spec, num_envs=2, first_copy=2 * index, seed=seed)
            selector.steps = choose.steps
            selectors.append(selector)
        for step in range(steps - steps // 2 + 1):
            if step > 0:
                timestep = original.step(choose(timestep))
                resumed = [
                    other.step(selector(current))
                    for other, selector, current in zip(others, selectors, resumed, strict=True)
                ]
            low, high = (tensors_of(part, final=False) for part in resumed)
            for name, tensor in tensors_of(timestep, final=False).items():
                together = torch.cat([low[name], high[name]])
                _compare({name: tensor}, {name: together}, rule, f"{step} steps after loading")
    finally:
        for environment in (original, *others):
            environment.close()


def _rollout(
    factory: EnvironmentFactory, request: EnvironmentRequest, steps: int, seed: int
) -> list[dict[str, Tensor]]:
    environment = factory(request)
    try:
        choose = RandomActions(environment.spec, num_envs=request.num_envs, first_copy=request.first_copy, seed=seed)
        timestep = environment.reset()
        rows = [tensors_of(timestep)]
        for _ in range(steps):
            timestep = environment.step(choose(timestep))
            rows.append(tensors_of(timestep))
        return rows
    finally:
        environment.close()


def _compare(one: dict[str, Tensor], other: dict[str, Tensor], rule: str, when: str) -> None:
    for name in sorted(set(one) | set(other)):
        if name not in one or name not in other:
            raise ConformanceError(rule, f"{name} is there only once, {when}")
        if one[name].shape != other[name].shape or not torch.equal(one[name], other[name]):
            copy = _first_difference(one[name], other[name])
            raise ConformanceError(rule, f"{name} differs in copy {copy}, {when}")


def _first_difference(one: Tensor, other: Tensor) -> int:
    if one.shape != other.shape:
        return 0
    return (
        int((one != other).flatten(1).any(-1).int().argmax()) if one.dim() > 1 else int((one != other).int().argmax())
    )


def _demand(holds: bool, rule: str, detail: str) -> None:
    if not holds:
        raise ConformanceError(rule, detail)


def _check_array(tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype, name: str) -> None:
    if tuple(tensor.shape) != shape or tensor.dtype != dtype:
        raise ConformanceError(
            "arrays have the shapes and dtypes of the spec",
            f"{name} is {tuple(tensor.shape)} {tensor.dtype}, and should be {shape} {dtype}",
        )
    if tensor.is_floating_point() and not torch.isfinite(tensor).all():
        copy = _first_difference(torch.isfinite(tensor), torch.ones_like(tensor, dtype=torch.bool))
        raise ConformanceError("numbers are finite", f"{name} holds NaN or infinity in copy {copy}")


def _check_masks(spec: GroupSpec, masks: Tensor | None, rows: int, name: str) -> None:
    if not spec.masked:
        _demand(masks is None, "only masked groups have action masks", f"{name} has one")
        return
    _demand(masks is not None, "masked groups have action masks", f"{name} has none")
    if masks is None or isinstance(spec.action, ContinuousActions):
        return
    _check_array(masks, (rows, spec.size, spec.action.mask_size), torch.bool, f"{name}.action_masks")
    nvec = (spec.action.num_actions,) if isinstance(spec.action, DiscreteActions) else spec.action.nvec
    for part in masks.split(nvec, dim=-1):
        _demand(bool(part.any(-1).all()), "an action mask is never all False", f"one of {name} is")


def _check_arrays(spec: EnvironmentSpec, timestep: TimeStep, num_envs: int) -> None:
    names = [group.name for group in spec.groups]
    _demand(
        list(timestep.groups) == names, "groups are those of the spec, in order", f"they are {list(timestep.groups)}"
    )
    _check_array(timestep.first, (num_envs,), torch.bool, "first")
    has_state = timestep.state is not None
    _demand(has_state == (spec.state is not None), "there is a state if the spec has one", "it is otherwise")
    if timestep.state is not None and spec.state is not None:
        _check_array(timestep.state, (num_envs, *spec.state.shape), spec.state.dtype, "state")
    busy = torch.zeros(num_envs, dtype=torch.int64)
    for group in spec.groups:
        step, shape = timestep.groups[group.name], (num_envs, group.size)
        _check_array(
            step.observations,
            (*shape, *group.observation.shape),
            group.observation.dtype,
            f"{group.name}.observations",
        )
        _check_masks(group, step.action_masks, num_envs, group.name)
        _check_array(step.rewards, shape, torch.float32, f"{group.name}.rewards")
        for field in ("active", "terminated", "truncated"):
            _check_array(getattr(step, field), shape, torch.bool, f"{group.name}.{field}")
        both = step.terminated & step.truncated
        _demand(not both.any(), "nobody is terminated and truncated at once", f"somebody of {group.name} is")
        busy += step.active.sum(-1).cpu()
    idle = busy == 0
    _demand(not idle.any(), "somebody is active in every copy", f"nobody is in copy {int(idle.int().argmax())}")
    if spec.turn_based:
        crowded = busy > 1
        detail = f"{int(busy.max())} are in copy {int(crowded.int().argmax())}"
        _demand(not crowded.any(), "in turn-based environments one agent is active", detail)


def _check_endings(
    spec: EnvironmentSpec, timestep: TimeStep, acted: dict[str, Tensor], dead: dict[str, Tensor], step: int
) -> None:
    ended = timestep.first.nonzero()[:, 0].cpu()
    final = timestep.final
    copies = torch.empty(0, dtype=torch.int64) if final is None else final.copies
    _demand(
        torch.equal(ended, copies) and (final is None) == (ended.numel() == 0),
        "there are last observations of exactly the copies whose episode ended",
        f"step {step}: first says {ended.tolist()}, final {None if final is None else copies.tolist()}",
    )
    first = timestep.first
    for group in spec.groups:
        name, now = group.name, timestep.groups[group.name]
        over = now.terminated | now.truncated
        again = over & dead[name]
        _demand(not again.any(), "an agent's life ends once", f"{_who(group, again)} ended twice, step {step}")
        paid = (now.rewards != 0) & dead[name]
        _demand(not paid.any(), "the dead get no rewards", f"{_who(group, paid)} got one, step {step}")
        if spec.turn_based:
            surviving = torch.zeros_like(over)
        else:
            early = over & ~acted[name]
            _demand(not early.any(), "only active agents' lives end", f"{_who(group, early)} was not, step {step}")
            surviving = first[:, None] & acted[name] & ~over
        _demand(
            not surviving.any(),
            "an episode ends when nobody is left",
            f"{_who(group, surviving)} was neither terminated nor truncated, step {step}",
        )
        gone = (dead[name] | over) & ~first[:, None]
        undead = gone & now.active
        _demand(not undead.any(), "the dead are not active", f"{_who(group, undead)} is, step {step}")
        dead[name] = gone
        if final is not None:
            last = final.groups[name]
            shape = (copies.numel(), group.size, *group.observation.shape)
            _check_array(last.observations, shape, group.observation.dtype, f"final.{name}.observations")
            _check_masks(group, last.action_masks, copies.numel(), f"final.{name}")
    if final is not None and spec.state is not None and final.state is not None:
        _check_array(final.state, (copies.numel(), *spec.state.shape), spec.state.dtype, "final.state")
    _demand(
        final is None or (final.state is None) == (spec.state is None),
        "there is a last state if the spec has one",
        f"it is otherwise, step {step}",
    )


def _who(group: GroupSpec, flags: Tensor) -> str:
    if not flags.any():
        return "nobody"
    copy, agent = flags.nonzero()[0].tolist()
    return f"{group.agents[agent]} in copy {copy}"
