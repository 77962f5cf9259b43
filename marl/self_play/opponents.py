"""The interface of a learner's opponents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol

from torch import Tensor

from marl.policy import Policy

LEARNER: Final = -1
"""The learner itself, with its newest parameters, where players are numbers."""
RANDOM: Final = -2
"""Uniformly random legal actions, where players are numbers."""

Policies = Mapping[str, Policy]
"""A player's policies, one a group; it can sit on any side."""


class Opponents(Protocol):
    """A learner's opponents; the same on all ranks."""

    def draw(self, envs: Tensor, episodes: Tensor) -> Tensor:
        """Draws the players of each side in new episodes.

        Args:
            envs: (K,) int64 indices of environments of this rank.
            episodes: (K,) int64, the number of each one's episode.

        Returns:
            (K, S) int64 players; LEARNER where the learner plays.
        """
        ...

    def policies(self, player: int) -> Policies:
        """Returns a player's policies; their parameters do not change."""
        ...

    def record(self, players: Tensor, returns: Tensor) -> None:
        """Records episodes that ended: (K, S) players, and (K, S) undiscounted returns of the sides."""
        ...


def learner_sides(envs: Tensor, episodes: Tensor, num_sides: int) -> Tensor:
    """The side of the learner in each episode, (K,): it rotates with the environment's global index and the episode."""
    return (envs + episodes) % num_sides
