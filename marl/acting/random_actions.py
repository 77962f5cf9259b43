"""Uniformly random legal actions: for warm-up, as a baseline, and for checks of environments."""

from __future__ import annotations

import torch
from torch import Tensor

from marl.policy import Decision, Policy
from marl.specs import ActionSpec, ContinuousActions, DiscreteActions, EnvironmentSpec, GroupSpec
from marl.streams import Stream
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


def random_actions(spec: ActionSpec, uniforms: Tensor, masks: Tensor | None) -> Tensor:
    """Uniformly random legal actions from uniform numbers.

    Args:
        spec: of one agent's actions.
        uniforms: (..., K) in (0, 1), one number for each of the K choices or dimensions.
        masks: (..., mask size) bool, or None.

    Returns:
        (...) int64, (..., K) int64 or (..., K) float32, as the spec says.
    """
    if isinstance(spec, ContinuousActions):
        return 2 * uniforms - 1
    if masks is None:
        masks = torch.ones((*uniforms.shape[:-1], spec.mask_size), dtype=torch.bool, device=uniforms.device)
    choices = []
    for index, legal in enumerate(masks.split(spec.nvec, dim=-1)):
        rank = legal.cumsum(-1)
        # The k-th legal action, k uniform in 1 … number of legal ones.
        wanted = (uniforms[..., index] * rank[..., -1]).long() + 1
        choices.append((rank >= wanted[..., None]).int().argmax(-1))
    return choices[0] if isinstance(spec, DiscreteActions) else torch.stack(choices, dim=-1)


def legal_actions(spec: ActionSpec, actions: Tensor, masks: Tensor | None) -> Tensor:
    """Returns whether actions are legal and within bounds.

    Args:
        spec: of one agent's actions.
        actions: (..., *action shape).
        masks: (..., mask size) bool, or None.

    Returns:
        (...) bool.
    """
    if isinstance(spec, ContinuousActions):
        return torch.isfinite(actions).all(-1)
    choices = actions[..., None] if isinstance(spec, DiscreteActions) else actions
    limits = torch.tensor(spec.nvec, device=actions.device)
    legal = ((choices >= 0) & (choices < limits)).all(-1)
    if masks is not None:
        offsets = limits.cumsum(0) - limits
        legal &= masks.gather(-1, choices.clamp(min=0).minimum(limits - 1) + offsets).all(-1)
    return legal


class RandomPolicy(Policy):
    """A policy of uniformly random legal actions."""

    def __init__(self, group: GroupSpec) -> None:
        self._action = group.action
        self.num_uniforms = group.action.array.size

    def act(self, step: GroupStep, first: Tensor, state: Tensor | None, uniforms: Tensor | None) -> Decision:
        assert uniforms is not None
        return Decision(actions=random_actions(self._action, uniforms, step.action_masks), extras={}, state=state)
