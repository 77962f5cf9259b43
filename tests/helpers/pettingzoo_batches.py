"""Batches of PettingZoo environments, and actions that are all zero."""

import torch

from marl.core import EnvironmentRequest
from marl.envs.pettingzoo.vector import PettingZooVectorEnvironment


def environment_of(make, **request):
    request.setdefault("num_envs", 2)
    return PettingZooVectorEnvironment(make, EnvironmentRequest(**request))


def zeros(environment):
    return {
        group.name: torch.zeros(
            (environment.num_envs, group.size, *group.action.array.shape), dtype=group.action.array.dtype
        )
        for group in environment.spec.groups
    }


def play(environment, steps):
    for _ in range(steps):
        environment.step(zeros(environment))
