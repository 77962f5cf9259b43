"""Items of replay and batches of them: transitions and sequences of joint steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from marl.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class TransitionItems:
    """Items are n-step transitions: one begins at every step, and none reaches over the end of an episode."""

    n_step: int = 1
    """Steps whose rewards are summed before the bootstrap."""

    def __post_init__(self) -> None:
        if self.n_step < 1:
            raise InputError(f"n-step returns need at least 1 step, not {self.n_step}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceItems:
    """Items are up to ``length`` consecutive steps of one episode, padded at its end.

    With ``length`` at least the longest episode, items are whole episodes. Longer episodes go on in further items
    that begin ``period`` steps later. In those, the first ``burn_in`` steps are only there to warm up a recurrent
    state (Kapturowski et al. 2019, "Recurrent experience replay in distributed reinforcement learning", section 3);
    the first item of an episode needs no warming up. By default every step is learned from exactly once.
    """

    length: int
    period: int | None = None
    burn_in: int = 0

    def __post_init__(self) -> None:
        if self.length < 1 or self.burn_in < 0 or not 1 <= self.stride <= self.length - self.burn_in:
            raise InputError(
                f"sequences of length {self.length} with period {self.period} and burn-in {self.burn_in} would leave "
                "steps out: period must be at least 1, and period + burn-in at most the length"
            )

    @property
    def stride(self) -> int:
        """Steps from the beginning of one sequence to the beginning of the next in the same episode."""
        return self.length - self.burn_in if self.period is None else self.period


Items = TransitionItems | SequenceItems


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupTransitions:
    """Transitions of one group's agents. Rows of agents that were not active are not to be learned from."""

    observations: Tensor
    """(B, A, *observation shape)."""
    action_masks: Tensor | None
    """(B, A, mask size) bool."""
    active: Tensor
    """(B, A) bool: agents that acted."""
    actions: Tensor
    """(B, A, *action shape)."""
    rewards: Tensor
    """(B, A) float32: discounted sum of the agent's rewards, over its steps of the window if it acted."""
    discounts: Tensor
    """(B, A) float32: weight of the agent's value at the next observation; 0 where it terminated."""
    next_observations: Tensor
    """(B, A, *observation shape): at the end of the window, or the agent's last one if its life ended before."""
    next_action_masks: Tensor | None
    """(B, A, mask size) bool."""
    next_active: Tensor
    """(B, A) bool: agents that act at the next joint step, or would have acted had the episode not been truncated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transitions:
    """This rank's B transitions of a global batch. Views of storage that the next sample overwrites."""

    groups: Mapping[str, GroupTransitions]
    state: Tensor | None
    """(B, *state shape)."""
    next_state: Tensor | None
    """(B, *state shape)."""
    discounts: Tensor
    """(B,) float32: weight of the team's value at the next step; 0 where all agents terminated."""
    weights: Tensor
    """(B,) float32 importance weights, at most 1; all 1 in uniform replay."""
    indices: Tensor
    """(B, 2) int64 on the CPU: the item's copy on this rank and its number; for ``update_priorities``."""
    positions: Tensor
    """(B,) int64 ascending: the item's place in the global batch, the index for random numbers of its own."""
    global_batch_size: int
    """Items in the global batch, over all ranks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSequences:
    """Sequences of one group's agents, L steps and L + 1 observations, time first as in GroupTrajectory."""

    observations: Tensor
    """(L+1, B, A, *observation shape); row t + 1 is where step t led, within the same episode."""
    action_masks: Tensor | None
    """(L+1, B, A, mask size) bool; padding is all True."""
    active: Tensor
    """(L+1, B, A) bool; after a truncated episode's last step, agents that would have acted."""
    actions: Tensor
    """(L, B, A, *action shape)."""
    rewards: Tensor
    """(L, B, A) float32."""
    discounts: Tensor
    """(L, B, A) float32: weight of the agent's value at row t + 1; 0 where it terminated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequences:
    """This rank's B sequences of a global batch. Views of storage that the next sample overwrites."""

    groups: Mapping[str, GroupSequences]
    state: Tensor | None
    """(L+1, B, *state shape)."""
    discounts: Tensor
    """(L, B) float32: weight of the team's value at row t + 1; 0 where all agents terminated."""
    valid: Tensor
    """(L, B) bool: False in the padding after the episode's end."""
    learn: Tensor
    """(L, B) bool: valid, and not burn-in."""
    weights: Tensor
    """(B,) float32 importance weights, at most 1; all 1 in uniform replay."""
    indices: Tensor
    """(B, 2) int64 on the CPU: the item's copy on this rank and its number; for ``update_priorities``."""
    positions: Tensor
    """(B,) int64 ascending: the item's place in the global batch, the index for random numbers of its own."""
    global_batch_size: int
    """Items in the global batch, over all ranks."""
