"""Uniformly random legal actions: for warm-up, as a baseline, and for checks of environments."""

from __future__ import annotations

from torch import Tensor

from marl.actions import random_actions
from marl.policy import Decision, Policy
from marl.random_streams import Stream
from marl.specs import EnvironmentSpec, GroupSpec
from marl.types import Actions, GroupStep, TimeStep


class RandomActions:
    """Uniformly random legal actions; those of a copy depend on its global index and the step only.

    Args:
        spec: the environment's spec.
        num_envs: environment copies, E.
        first_env: global index of the first of them.
        seed: of the actions.
    """

    def __init__(self, spec: EnvironmentSpec, *, num_envs: int, first_env: int = 0, seed: int = 0) -> None:
        self._spec = spec
        self._streams = {
            group.name: Stream(seed, f"random actions/{group.name}", first_env=first_env, num_envs=num_envs)
            for group in spec.groups
        }
        self.steps = 0

    def __call__(self, timestep: TimeStep) -> Actions:
        """Actions for every group, (E, A, *action shape)."""
        actions = {}
        for group in self._spec.groups:
            numbers = group.action.array.size
            uniforms = self._streams[group.name].uniforms(self.steps, group.size * numbers)[0]
            uniforms = uniforms.view(-1, group.size, numbers)
            masks = timestep.groups[group.name].action_masks
            device = timestep.groups[group.name].active.device
            actions[group.name] = random_actions(group.action, uniforms.to(device), masks)
        self.steps += 1
        return actions


class RandomPolicy(Policy):
    """A policy of uniformly random legal actions."""

    def __init__(self, group: GroupSpec) -> None:
        self._action = group.action
        self.num_uniforms = group.action.array.size

    def act(self, step: GroupStep, first: Tensor, state: Tensor | None, uniforms: Tensor | None) -> Decision:
        assert uniforms is not None
        return Decision(actions=random_actions(self._action, uniforms, step.action_masks), extras={}, state=state)
