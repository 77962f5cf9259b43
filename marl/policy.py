"""Policies: from the observations of one group's agents to their actions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from marl.core import State
from marl.specs import ArraySpec
from marl.types import GroupStep


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """A policy's output for the agents of its group in E environment copies."""

    actions: Tensor
    """(E, A, *action shape), canonical as in the action specs."""
    extras: State
    """(E, A, ...) tensors for the learner; their names and shapes are the policy's ``extras``."""
    state: Tensor | None
    """(E, A, H): the recurrent state after this step; None for feed-forward policies."""


class Policy(ABC):
    """A policy of one group's agents. It holds no memory: recurrent state is handed in and out."""

    num_uniforms: int = 0
    """Uniform random numbers that one agent's decision needs."""
    extras: Mapping[str, ArraySpec] = {}
    """Specs of one agent's outputs for the learner, by name: log-probabilities, recurrent states."""

    def initial_state(self, num_envs: int) -> Tensor | None:
        """(E, A, H) recurrent state before the first step, or None."""
        return None

    @abstractmethod
    def act(self, step: GroupStep, first: Tensor, state: Tensor | None, uniforms: Tensor | None) -> Decision:
        """Decides for all agents of the group, whether active or not.

        Args:
            step: the group's observations.
            first: (E,) bool, where an episode begins.
            state: recurrent state, (E, A, H) or None.
            uniforms: (E, A, num_uniforms) in (0, 1), or None where ``num_uniforms`` is 0.
        """

    def probabilities(
        self, step: GroupStep, first: Tensor, state: Tensor | None, num_actions: int
    ) -> tuple[Tensor, Tensor | None]:
        """Probabilities of the choices of a single discrete action; for analysis, not for speed.

        Args:
            step: as in ``act``.
            first: as in ``act``.
            state: as in ``act``.
            num_actions: K.

        Returns:
            (E, A, K) that sum to 1, and the new recurrent state.

        Raises:
            NotImplementedError: the policy samples its actions, and does not define their probabilities.
        """
        if self.num_uniforms:
            raise NotImplementedError(f"{type(self).__name__} does not tell how likely its actions are")
        decision = self.act(step, first, state, None)
        return torch.nn.functional.one_hot(decision.actions, num_actions).to(torch.float32), decision.state
