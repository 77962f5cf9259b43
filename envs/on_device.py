"""Environments in host memory, seen from another device."""

from __future__ import annotations

import torch

from marl.core import EnvironmentFactory, EnvironmentRequest, State, VectorEnvironment
from marl.types import Actions, TimeStep


class OnDevice(VectorEnvironment):
    """An environment whose time steps are copied to a device, and whose actions come from there.

    Args:
        environment: steps in host memory.
        device: of time steps and actions; policies and learners compute there.
    """

    def __init__(self, environment: VectorEnvironment, device: torch.device) -> None:
        self._environment = environment
        self._device = device
        self.spec = environment.spec
        self.num_envs = environment.num_envs

    def reset(self) -> TimeStep:
        return self._environment.reset().to(self._device)

    def step(self, actions: Actions) -> TimeStep:
        return self._environment.step({name: tensor.cpu() for name, tensor in actions.items()}).to(self._device)

    def current(self) -> TimeStep:
        return self._environment.current().to(self._device)

    def close(self) -> None:
        self._environment.close()

    def state_dict(self) -> State:
        return self._environment.state_dict()

    def load_state_dict(self, state: State) -> None:
        self._environment.load_state_dict(state)

    def env_state_dict(self) -> State:
        return self._environment.env_state_dict()

    def load_env_state_dict(self, state: State) -> None:
        self._environment.load_env_state_dict(state)


def on_device(factory: EnvironmentFactory, device: torch.device | str) -> EnvironmentFactory:
    """A factory of the same environments, seen from a device; the factory itself where that is the CPU."""
    place = torch.device(device)
    if place.type == "cpu":
        return factory

    def make(request: EnvironmentRequest) -> VectorEnvironment:
        return OnDevice(factory(request), place)

    return make
