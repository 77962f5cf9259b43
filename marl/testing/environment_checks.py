"""Conformance checks of environments, for users' own ones too; the tests run them on every environment here."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor

from marl.acting.random_actions import RandomActions
from marl.core import EnvironmentFactory, EnvironmentRequest
from marl.specs import ContinuousActions, EnvironmentSpec, GroupSpec
from marl.types import FinalGroupStep, GroupStep, TimeStep


class ConformanceError(AssertionError):
    """Raised where a promise does not hold; says which promise, where, and what was found."""

    def __init__(self, rule: str, detail: str) -> None:
        self.rule = rule
        self.detail = detail
        super().__init__(f"{rule}: {detail}")


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
        tensors["final.envs"] = timestep.final.envs.clone()
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
    """Checks shapes, dtypes, finite numbers, active flags, masks, endings and last observations."""
    environment = factory(EnvironmentRequest(num_envs=num_envs, seed=seed))
    try:
        if environment.num_envs != num_envs:
            raise ConformanceError("num_envs is what was requested", f"it is {environment.num_envs}, not {num_envs}")
        spec = environment.spec
        random_actions = RandomActions(spec, num_envs=num_envs, seed=seed)
        timestep = environment.reset()
        _check_arrays(spec, timestep, num_envs)
        _require(bool(timestep.first.all()), "reset begins an episode in every copy", "first is not all True")
        _require(timestep.final is None, "reset has no last observations", "final is not None")
        for name, group in timestep.groups.items():
            quiet = not (group.rewards.any() or group.terminated.any() or group.truncated.any())
            _require(quiet, "after reset rewards and endings are zero", f"those of {name} are not")
        living = {name: group.active.clone() for name, group in timestep.groups.items()}
        dead = {name: torch.zeros_like(active) for name, active in living.items()}
        for step in range(steps):
            acted = {name: group.active.clone() for name, group in timestep.groups.items()}
            timestep = environment.step(random_actions(timestep))
            _check_arrays(spec, timestep, num_envs)
            _check_endings(spec, timestep, acted, dead, step)
    finally:
        environment.close()


def check_determinism(factory: EnvironmentFactory, steps: int = 64, *, seed: int = 0, num_envs: int = 2) -> None:
    """Checks that equal seeds and actions give equal time steps, bit for bit."""
    rule = "equal seeds and actions give equal steps"
    runs = [_rollout(factory, EnvironmentRequest(num_envs=num_envs, seed=seed), steps, seed) for _ in range(2)]
    for step, (one, other) in enumerate(zip(*runs, strict=True)):
        _compare(one, other, rule, f"after {step} steps")


def check_independence(factory: EnvironmentFactory, steps: int = 64, *, seed: int = 0) -> None:
    """Checks that four copies in one environment equal the same copies two by two in two, as on two ranks."""
    rule = "a copy does not depend on the copies beside it"
    whole = _rollout(factory, EnvironmentRequest(num_envs=4, seed=seed), steps, seed)
    halves = [
        _rollout(factory, EnvironmentRequest(num_envs=2, first_env=first, seed=seed), steps, seed) for first in (0, 2)
    ]
    for step, (one, low, high) in enumerate(zip(whole, *halves, strict=True)):
        for name, tensor in one.items():
            if not name.startswith("final."):
                together = torch.cat([low[name], high[name]])
                _compare({name: tensor}, {name: together}, rule, f"after {step} steps")


def check_resume(factory: EnvironmentFactory, steps: int = 64, *, seed: int = 0) -> None:
    """Checks that saved copies go on alike in fresh environments, also when they are split differently.

    Environments that save nothing pass: they cannot be resumed within an episode.
    """
    rule = "an environment that was saved and loaded goes on alike"
    original = factory(EnvironmentRequest(num_envs=4, seed=seed))
    others = [factory(EnvironmentRequest(num_envs=2, first_env=first, seed=seed)) for first in (0, 2)]
    try:
        random_actions = RandomActions(original.spec, num_envs=4, seed=seed)
        timestep = original.reset()
        for _ in range(steps // 2):
            timestep = original.step(random_actions(timestep))
        saved = original.env_state_dict()
        if not saved:
            return
        for name, tensor in saved.items():
            _require(tensor.shape[:1] == (4,), "saved tensors have one row a copy", f"{name} is {tuple(tensor.shape)}")
        selectors = []
        resumed = []
        for index, other in enumerate(others):
            other.load_env_state_dict({name: tensor[2 * index : 2 * index + 2] for name, tensor in saved.items()})
            resumed.append(other.current())
            selector = RandomActions(original.spec, num_envs=2, first_env=2 * index, seed=seed)
            selector.steps = random_actions.steps
            selectors.append(selector)
        for step in range(steps - steps // 2 + 1):
            if step > 0:
                timestep = original.step(random_actions(timestep))
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
        random_actions = RandomActions(
            environment.spec, num_envs=request.num_envs, first_env=request.first_env, seed=seed
        )
        timestep = environment.reset()
        rows = [tensors_of(timestep)]
        for _ in range(steps):
            timestep = environment.step(random_actions(timestep))
            rows.append(tensors_of(timestep))
        return rows
    finally:
        environment.close()


def _compare(one: dict[str, Tensor], other: dict[str, Tensor], rule: str, when: str) -> None:
    for name in sorted(set(one) | set(other)):
        if name not in one or name not in other:
            raise ConformanceError(rule, f"{name} is there only once, {when}")
        if one[name].shape != other[name].shape or not torch.equal(one[name], other[name]):
            env = _first_difference(one[name], other[name])
            raise ConformanceError(rule, f"{name} differs in copy {env}, {when}")


def _first_difference(one: Tensor, other: Tensor) -> int:
    if one.shape != other.shape:
        return 0
    different = one != other
    return int((different.flatten(1).any(-1) if different.dim() > 1 else different).int().argmax())


def _require(holds: bool, rule: str, detail: str) -> None:
    if not holds:
        raise ConformanceError(rule, detail)


def _check_array(tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype, name: str) -> None:
    if tuple(tensor.shape) != shape or tensor.dtype != dtype:
        raise ConformanceError(
            "arrays have the shapes and dtypes of the spec",
            f"{name} is {tuple(tensor.shape)} {tensor.dtype}, and should be {shape} {dtype}",
        )
    if tensor.is_floating_point() and not torch.isfinite(tensor).all():
        env = _first_difference(torch.isfinite(tensor), torch.ones_like(tensor, dtype=torch.bool))
        raise ConformanceError("numbers are finite", f"{name} holds NaN or infinity in copy {env}")


def _check_masks(spec: GroupSpec, masks: Tensor | None, rows: int, name: str) -> None:
    if not spec.masked:
        _require(masks is None, "only masked groups have action masks", f"{name} has one")
        return
    _require(masks is not None, "masked groups have action masks", f"{name} has none")
    if masks is None or isinstance(spec.action, ContinuousActions):
        return
    _check_array(masks, (rows, spec.size, spec.action.mask_size), torch.bool, f"{name}.action_masks")
    for part in masks.split(spec.action.nvec, dim=-1):
        _require(bool(part.any(-1).all()), "an action mask is never all False", f"one of {name} is")


def _check_arrays(spec: EnvironmentSpec, timestep: TimeStep, num_envs: int) -> None:
    names = [group.name for group in spec.groups]
    _require(
        list(timestep.groups) == names, "groups are those of the spec, in order", f"they are {list(timestep.groups)}"
    )
    _check_array(timestep.first, (num_envs,), torch.bool, "first")
    has_state = timestep.state is not None
    _require(has_state == (spec.state is not None), "there is a state if the spec has one", "it is otherwise")
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
        _require(not both.any(), "nobody is terminated and truncated at once", f"somebody of {group.name} is")
        busy += step.active.sum(-1).cpu()
    idle = busy == 0
    _require(not idle.any(), "somebody is active in every copy", f"nobody is in copy {int(idle.int().argmax())}")
    if spec.turn_based:
        crowded = busy > 1
        detail = f"{int(busy.max())} are in copy {int(crowded.int().argmax())}"
        _require(not crowded.any(), "in turn-based environments one agent is active", detail)


def _check_endings(
    spec: EnvironmentSpec, timestep: TimeStep, acted: dict[str, Tensor], dead: dict[str, Tensor], step: int
) -> None:
    ended = timestep.first.nonzero()[:, 0].cpu()
    final = timestep.final
    envs = torch.empty(0, dtype=torch.int64) if final is None else final.envs
    _require(
        torch.equal(ended, envs) and (final is None) == (ended.numel() == 0),
        "there are last observations of exactly the copies whose episode ended",
        f"step {step}: first says {ended.tolist()}, final {None if final is None else envs.tolist()}",
    )
    first = timestep.first
    for group in spec.groups:
        name, now = group.name, timestep.groups[group.name]
        over = now.terminated | now.truncated
        again = over & dead[name]
        _require(not again.any(), "an agent's life ends once", f"{_who(group, again)} ended twice, step {step}")
        paid = (now.rewards != 0) & dead[name]
        _require(not paid.any(), "the dead get no rewards", f"{_who(group, paid)} got one, step {step}")
        if spec.turn_based:
            surviving = torch.zeros_like(over)
        else:
            early = over & ~acted[name]
            _require(not early.any(), "only active agents' lives end", f"{_who(group, early)} was not, step {step}")
            surviving = first[:, None] & acted[name] & ~over
        _require(
            not surviving.any(),
            "an episode ends when nobody is left",
            f"{_who(group, surviving)} was neither terminated nor truncated, step {step}",
        )
        gone = (dead[name] | over) & ~first[:, None]
        undead = gone & now.active
        _require(not undead.any(), "the dead are not active", f"{_who(group, undead)} is, step {step}")
        dead[name] = gone
        if final is not None:
            last = final.groups[name]
            shape = (envs.numel(), group.size, *group.observation.shape)
            _check_array(last.observations, shape, group.observation.dtype, f"final.{name}.observations")
            _check_masks(group, last.action_masks, envs.numel(), f"final.{name}")
    if final is not None and spec.state is not None and final.state is not None:
        _check_array(final.state, (envs.numel(), *spec.state.shape), spec.state.dtype, "final.state")
    _require(
        final is None or (final.state is None) == (spec.state is None),
        "there is a last state if the spec has one",
        f"it is otherwise, step {step}",
    )


def _who(group: GroupSpec, flags: Tensor) -> str:
    if not flags.any():
        return "nobody"
    env, agent = flags.nonzero()[0].tolist()
    return f"{group.agents[agent]} in copy {env}"
