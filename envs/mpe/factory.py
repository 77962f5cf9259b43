"""Batched MPE by name."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from typing import Final

import torch

from marl.core import EnvironmentFactory, EnvironmentRequest
from marl.envs.mpe.environment import BatchedMPE, Compile
from marl.envs.mpe.task import Task
from marl.envs.mpe.tasks.simple import Simple
from marl.envs.mpe.tasks.simple_adversary import SimpleAdversary
from marl.envs.mpe.tasks.simple_crypto import SimpleCrypto
from marl.envs.mpe.tasks.simple_push import SimplePush
from marl.envs.mpe.tasks.simple_reference import SimpleReference
from marl.envs.mpe.tasks.simple_speaker_listener import SimpleSpeakerListener
from marl.envs.mpe.tasks.simple_spread import SimpleSpread
from marl.envs.mpe.tasks.simple_tag import SimpleTag
from marl.envs.mpe.tasks.simple_world_comm import SimpleWorldComm
from marl.errors import InputError, nearest
from marl.learning.compilation import can_compile

TASKS: Final[Mapping[str, type[Task]]] = {
    f"mpe2.{task.name}": task
    for task in (
        Simple,
        SimpleAdversary,
        SimpleCrypto,
        SimplePush,
        SimpleReference,
        SimpleSpeakerListener,
        SimpleSpread,
        SimpleTag,
        SimpleWorldComm,
    )
}
"""The tasks that exist in batched form, by the names of their unmodified versions."""


def make_task(name: str, env_kwargs: Mapping[str, object] | None = None) -> Task:
    """The task called ``name`` with mpe2's arguments.

    Args:
        name: ``mpe2.simple_spread_v3`` and the like.
        env_kwargs: arguments of mpe2's ``parallel_env``.

    Raises:
        InputError: there is no such task or argument, or a value is out of range.
    """
    if name not in TASKS:
        hint = nearest(name, TASKS, list_all=False)
        raise InputError(f"{name} has no batched version{hint}; there are {', '.join(sorted(TASKS))}")
    task = TASKS[name]
    known = [field.name for field in dataclasses.fields(task)]
    if unknown := sorted(set(env_kwargs or {}) - set(known)):
        raise InputError(f"{name} takes no argument {', '.join(unknown)}; it takes {', '.join(known)}")
    return task(**(env_kwargs or {}))  # type: ignore[arg-type]


def make_batched(
    name: str,
    env_kwargs: Mapping[str, object] | None = None,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    compile: Compile = "auto",
) -> EnvironmentFactory:
    """A factory of batched environments of one task.

    Args:
        name: ``mpe2.simple_spread_v3`` and the like.
        env_kwargs: arguments of mpe2's ``parallel_env``.
        device: where the environments live.
        dtype: of the physics.
        compile: see ``BatchedMPE``.

    Raises:
        InputError: as ``make_task``.
    """
    task = make_task(name, env_kwargs)

    def make(request: EnvironmentRequest) -> BatchedMPE:
        return BatchedMPE(task, request, device=device, dtype=dtype, compile=compile)

    return make


def bench_step(num_envs: int, seconds: float, *, compile: Compile | None = None) -> float:
    """Environment steps a second of simple_spread alone, with random actions drawn beforehand.

    Args:
        num_envs: copies.
        seconds: how long to measure, after everything is warm.
        compile: as in ``BatchedMPE``; None compiles where a compiler is there.
    """
    if compile is None:
        compile = can_compile(torch.device("cpu"))
    environment = make_batched("mpe2.simple_spread_v3", compile=compile)(EnvironmentRequest(num_envs=num_envs))
    group = environment.spec.groups[0]
    generator = torch.Generator().manual_seed(0)
    actions = [{group.name: torch.randint(5, (num_envs, group.size), generator=generator)} for _ in range(64)]
    environment.reset()
    for action in actions:
        environment.step(action)
    steps = 0
    begin = time.perf_counter()
    while (elapsed := time.perf_counter() - begin) < seconds:
        for action in actions:
            environment.step(action)
        steps += len(actions)
    return steps * num_envs / elapsed
