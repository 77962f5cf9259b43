"""Uniformly random moves on all sides but one, to see whether anything was learned."""

from __future__ import annotations

import torch
from torch import Tensor

from marl.acting.actors import PolicyActor
from marl.acting.random_actions import RandomPolicy
from marl.games.sides import Sides
from marl.specs import EnvironmentSpec
from marl.types import Actions, TimeStep


class RandomOpponents:
    """Plays random legal moves in the seats of others; which side is the policies' own rotates with the episodes.

    Args:
        spec: of the environment.
        sides: of the game.
        num_envs: E, copies of this rank.
        seed: of the moves.
        purpose: part of the seed.
        first_env: global index of this rank's first copy.
        device: of actions.
    """

    def __init__(
        self,
        spec: EnvironmentSpec,
        sides: Sides,
        *,
        num_envs: int,
        seed: int,
        purpose: str,
        first_env: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self._sides = sides
        self._envs = torch.arange(first_env, first_env + num_envs)
        self._moves = PolicyActor(
            {group.name: RandomPolicy(group) for group in spec.groups},
            {group.name: group.size for group in spec.groups},
            num_envs=num_envs,
            seed=seed,
            purpose=f"{purpose}/opponents",
            first_env=first_env,
            device=device,
        )

    @staticmethod
    def own_sides(envs: Tensor, episodes: Tensor, num_sides: int) -> Tensor:
        """(K,) int64, the policies' own side in those episodes of those copies, by their global indices."""
        return (envs + episodes) % num_sides

    def replace(self, actions: Actions, timestep: TimeStep, episodes: Tensor) -> Actions:
        """Actions of the policies on their own side, and random ones on the others.

        Args:
            actions: of the policies in all seats.
            timestep: what they were selected at.
            episodes: (E,) int64, the number of each copy's episode.
        """
        own = self.own_sides(self._envs, episodes, len(self._sides)).unsqueeze(1)
        mixed = {}
        for name, moves in self._moves.select_actions(timestep).items():
            seats = (self._sides.of_group[name] == own).to(moves.device)
            mixed[name] = torch.where(seats.view(*seats.shape, *[1] * (moves.dim() - 2)), actions[name], moves)
        return mixed
