"""Players that decide by policies or at random, for many games at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import final

import numpy as np
import torch
from torch import Tensor

from marl.actions import random_actions
from marl.games.player import DecisionRequest, Player, PlayerError, call_player
from marl.policy import Policy
from marl.specs import ContinuousActions, EnvironmentSpec, GroupSpec
from marl.types import Bools, GroupStep, Integers, TimeStep


@dataclass(slots=True)
class _Part:
    """One group of a policy, and where its agents are in the time steps of the games."""

    policy: Policy
    group: GroupSpec
    places: list[tuple[str, int, int]]
    """For each agent: group, row in it, column among all agents."""
    whole: str | None
    """The games' group whose agents are just these; None where agents are grouped in another way."""
    state: Tensor | None = None


@final
class PolicyPlayer(Player):
    """Plays by policies of groups, trained or other; one forward pass a group and step.

    Feed-forward policies are asked where they must act. Recurrent ones are asked at every step, as in training, and
    are shown what an agent saw last while others move.

    Args:
        spec: what the policies were made for; its agents and their spaces are the games'.
        policies: one a group of ``spec``.
    """

    def __init__(self, spec: EnvironmentSpec, policies: Mapping[str, Policy]) -> None:
        self._spec = spec
        self._policies = dict(policies)
        self.num_uniforms = max((policy.num_uniforms for policy in self._policies.values()), default=0)
        self.remembers = any(policy.initial_state(1) is not None for policy in self._policies.values())
        self._parts: list[_Part] = []
        self._owned: Bools = np.zeros((0, 0), dtype=bool)

    def begin(self, spec: EnvironmentSpec, num_games: int, owned: Bools, seeds: Sequence[int]) -> None:
        self._owned = owned
        places: dict[str, tuple[str, int, int]] = {}
        for group in spec.groups:
            for row, agent in enumerate(group.agents):
                places[agent] = (group.name, row, len(places))
        whole = {group.agents: group.name for group in spec.groups}
        self._parts = []
        for group in self._spec.groups:
            columns = [places[agent][2] for agent in group.agents]
            if owned[:, columns].any():
                policy = self._policies[group.name]
                self._parts.append(
                    _Part(
                        policy=policy,
                        group=group,
                        places=[places[agent] for agent in group.agents],
                        whole=whole.get(group.agents),
                        state=policy.initial_state(num_games),
                    )
                )
        self._index = {group.name: index for index, group in enumerate(spec.groups)}

    def act(self, request: DecisionRequest) -> list[PlayerError]:
        everything = np.arange(len(request.games))
        error = call_player(partial(self._act, request, everything), int(request.games[0]), request.move_seconds)
        if error is None:
            return []
        if error.kind == "timeout":
            return [replace(error, game=game) for game in request.games.tolist()]
        # Where a whole forward pass fails, each game is tried alone, to find the guilty ones.
        alone = [
            call_player(partial(self._act, request, everything[row : row + 1]), game, request.move_seconds)
            for row, game in enumerate(request.games.tolist())
        ]
        return [error for error in alone if error is not None]

    @torch.inference_mode()
    def _act(self, request: DecisionRequest, rows: Integers) -> None:
        decided = []
        for part in self._parts:
            columns = [column for _, _, column in part.places]
            must = request.must_act[rows][:, columns]
            chosen = rows if part.state is not None else rows[must.any(1)]
            if part.state is None:
                must = must[must.any(1)]
            if not len(chosen):
                continue
            games = torch.from_numpy(request.games[chosen])
            uniforms = None
            if part.policy.num_uniforms:
                assert request.uniforms is not None
                uniforms = request.uniforms[torch.from_numpy(chosen)][:, columns, : part.policy.num_uniforms]
            first = torch.full((len(chosen),), request.first)
            state = None if part.state is None else part.state[games]
            decision = part.policy.act(self._read(part, request.step, games, must), first, state, uniforms)
            decided.append((part, games, must, decision))
        # Nothing is written before everything went well, so that a failed pass can be repeated game by game.
        for part, games, must, decision in decided:
            if part.state is not None and decision.state is not None:
                part.state[games] = decision.state
            actions, on = decision.actions.cpu().numpy(), games.numpy()
            for index, (group, row, _) in enumerate(part.places):
                acts = must[:, index]
                request.actions[self._index[group]][on[acts], row] = actions[acts, index]

    def _read(self, part: _Part, step: TimeStep, games: Tensor, must: Bools) -> GroupStep:
        """The group's time step in some games; agents that other players play are unseen."""
        active = torch.from_numpy(must)
        zeros = torch.zeros(active.shape)
        none = torch.zeros(active.shape, dtype=torch.bool)
        if part.whole is not None:
            source = step.groups[part.whole]
            observations = source.observations[games]
            masks = None if source.action_masks is None else source.action_masks[games]
        else:
            sources = [(step.groups[group], row) for group, row, _ in part.places]
            observations = torch.stack([group.observations[games, row] for group, row in sources], dim=1)
            masks = None
            if part.group.masked:
                parts = [group.action_masks[games, row] for group, row in sources if group.action_masks is not None]
                masks = torch.stack(parts, dim=1)
        columns = [column for _, _, column in part.places]
        owned = torch.from_numpy(self._owned[games.numpy()][:, columns])
        if not bool(owned.all()):
            observations = torch.where(
                owned.view(*owned.shape, *[1] * (observations.dim() - 2)), observations, torch.zeros_like(observations)
            )
            if masks is not None:
                masks = masks | ~owned.unsqueeze(-1)
        return GroupStep(
            observations=observations,
            action_masks=masks,
            active=active,
            rewards=zeros,
            terminated=none,
            truncated=none,
        )


@final
class RandomPlayer(Player):
    """Uniformly random legal actions."""

    def __init__(self, spec: EnvironmentSpec) -> None:
        self._spec = spec
        self.num_uniforms = max(group.action.array.size for group in spec.groups)

    def begin(self, spec: EnvironmentSpec, num_games: int, owned: Bools, seeds: Sequence[int]) -> None:
        self._spec = spec

    def act(self, request: DecisionRequest) -> list[PlayerError]:
        assert request.uniforms is not None
        write_random_actions(self._spec, request, request.uniforms)
        return []


def blank_step(group: GroupSpec, num_envs: int) -> GroupStep:
    """A step at which nobody of the group sees anything or has to act, everything is legal, and nothing is received."""
    shape = (num_envs, group.size)
    masks = None
    if group.masked and not isinstance(group.action, ContinuousActions):
        masks = torch.ones((*shape, group.action.mask_size), dtype=torch.bool)
    return GroupStep(
        observations=torch.zeros((*shape, *group.observation.shape), dtype=group.observation.dtype),
        action_masks=masks,
        active=torch.zeros(shape, dtype=torch.bool),
        rewards=torch.zeros(shape),
        terminated=torch.zeros(shape, dtype=torch.bool),
        truncated=torch.zeros(shape, dtype=torch.bool),
    )


def write_random_actions(spec: EnvironmentSpec, request: DecisionRequest, uniforms: Tensor) -> None:
    """Writes uniformly random legal actions for the agents that must act.

    Args:
        spec: of the environment.
        request: which agents, and where the actions go.
        uniforms: (R, N, k) in (0, 1); k at least the size of any agent's action.
    """
    column = 0
    for index, group in enumerate(spec.groups):
        step = request.step.groups[group.name]
        for row in range(group.size):
            acts = request.must_act[:, column]
            games = request.games[acts]
            if len(games):
                masks = None if step.action_masks is None else step.action_masks[torch.from_numpy(games), row]
                numbers = uniforms[torch.from_numpy(acts), column, : group.action.array.size]
                request.actions[index][games, row] = random_actions(group.action, numbers, masks).numpy()
            column += 1
