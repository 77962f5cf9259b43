"""Parts that an experiment makes for every algorithm: the actor, and networks on their device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass

import torch

from marl.acting.actors import PolicyActor
from marl.builders import RunContext
from marl.core import Actor, Adder
from marl.networks.normalizers import Normalizer
from marl.policy import Policy
from marl.specs import EnvironmentSpec

ActorFactory = Callable[[EnvironmentSpec, Mapping[str, Policy], RunContext, Adder], Actor]
"""From the spec, the exploring policies, the run's context and the adder to an actor."""


def make_policy_actor(
    spec: EnvironmentSpec, policies: Mapping[str, Policy], context: RunContext, adder: Adder
) -> PolicyActor:
    """Makes an actor whose policies act in all seats."""
    return PolicyActor(
        policies,
        {group.name: group.size for group in spec.groups},
        num_envs=context.num_envs,
        seed=context.seed,
        first_env=context.first_env,
        adder=adder,
        device=context.device,
    )


def move_networks(networks: object, device: torch.device) -> None:
    """Moves a builder's networks to a device: modules and normalisers in mappings, sequences and dataclasses."""
    if isinstance(networks, (torch.nn.Module, Normalizer)):
        networks.to(device)
    elif isinstance(networks, Mapping):
        for part in networks.values():
            move_networks(part, device)
    elif isinstance(networks, (list, tuple)):
        for part in networks:
            move_networks(part, device)
    elif is_dataclass(networks):
        for entry in fields(networks):
            move_networks(getattr(networks, entry.name), device)
