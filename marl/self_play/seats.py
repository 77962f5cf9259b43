"""Players that do not learn, in their seats."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from marl.acting.actors import ActingNoise
from marl.acting.random_actions import RandomPolicy
from marl.core import Saveable, State
from marl.games.sides import Sides
from marl.self_play.opponents import LEARNER, RANDOM, Policies
from marl.specs import EnvironmentSpec
from marl.types import Actions, GroupStep, TimeStep


class SeatedPlayers(Saveable):
    """Acts for the players that sit in E environments; the seats of one player go through one forward pass a group.

    Args:
        spec: of the environment.
        sides: its sides.
        policies: a function from player to policies.
        template: policies with the same recurrent states and random numbers as the players' (the learner's, say).
        num_envs: E.
        seed: the experiment's.
        purpose: what the random numbers are for.
        first_env: global index of this rank's first environment.
        device: where policies compute.

    Attributes:
        players: (E, S) int64: the player on each side; LEARNER where the learner itself acts.
    """

    players: Tensor

    def __init__(
        self,
        spec: EnvironmentSpec,
        sides: Sides,
        policies: Callable[[int], Policies],
        template: Policies,
        *,
        num_envs: int,
        seed: int,
        purpose: str,
        first_env: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self._spec = spec
        self._sides = sides
        self._policies = policies
        random = {group.name: RandomPolicy(group) for group in spec.groups}
        self._random: Policies = random
        self._noise = ActingNoise(
            {name: max(policy.num_uniforms, random[name].num_uniforms) for name, policy in template.items()},
            {group.name: group.size for group in spec.groups},
            num_envs=num_envs,
            seed=seed,
            purpose=purpose,
            first_env=first_env,
            device=device,
        )
        self._states: dict[str, Tensor] = {}
        for name, policy in template.items():
            state = policy.initial_state(num_envs)
            if state is not None:
                self._states[name] = state
        self.players = torch.full((num_envs, len(sides)), LEARNER)

    @torch.inference_mode()
    def act(self, timestep: TimeStep, actions: Actions) -> Actions:
        """Returns the actions with those of the seated players written over them."""
        noise = self._noise.next()
        present = self.players.unique().tolist()
        if present == [LEARNER]:
            return actions
        merged = {name: tensor.clone() for name, tensor in actions.items()}
        for player in present:
            if player == LEARNER:
                continue
            policies = self._random if player == RANDOM else self._policies(player)
            sitting = self.players == player
            for name, policy in policies.items():
                seats = sitting[:, self._sides.of_group[name]]
                step = timestep.groups[name]
                recurrent = name in self._states and player != RANDOM
                # A GRU reads every step, as it does for the learner; others need not look unless they act.
                rows = (seats if recurrent else seats & step.active).any(1).nonzero().squeeze(1)
                if not rows.numel():
                    continue
                state = self._states[name][rows] if recurrent else None
                count = policy.num_uniforms
                uniforms = noise[name][rows][..., :count] if count else None
                decision = policy.act(rows_of(step, rows), timestep.first[rows], state, uniforms)
                own = seats[rows]
                merged[name][rows] = only_where(own, decision.actions, merged[name][rows])
                if recurrent and decision.state is not None:
                    self._states[name][rows] = only_where(own, decision.state, self._states[name][rows])
        return merged

    def state_dict(self) -> State:
        return self._noise.state_dict()

    def load_state_dict(self, state: State) -> None:
        self._noise.load_state_dict(state)

    def env_state_dict(self) -> State:
        """Seats and recurrent states."""
        return {"players": self.players, **{f"state/{name}": state for name, state in self._states.items()}}

    def load_env_state_dict(self, state: State) -> None:
        self.players = state["players"].clone()
        for name in self._states:
            self._states[name] = state[f"state/{name}"].clone()


def rows_of(step: GroupStep, rows: Tensor) -> GroupStep:
    """A group's step in the environments of these numbers, (n,) int64."""
    return GroupStep(
        observations=step.observations[rows],
        action_masks=None if step.action_masks is None else step.action_masks[rows],
        active=step.active[rows],
        rewards=step.rewards[rows],
        terminated=step.terminated[rows],
        truncated=step.truncated[rows],
    )


def only_where(seats: Tensor, theirs: Tensor, others: Tensor) -> Tensor:
    """``theirs`` where (n, A) seats are, for tensors (n, A, ...)."""
    return torch.where(seats.view(*seats.shape, *[1] * (theirs.dim() - 2)), theirs, others)
