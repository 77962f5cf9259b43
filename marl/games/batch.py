"""Batches of games: many games side by side, every player's decisions batched, and forfeits by their reasons.

A game is one episode of an environment whose agents are divided into sides; each side is taken by one player for the
whole episode. Games are played in batches of consecutive numbers, each in an environment of its own. What happens in a
batch is a function of the seed and of its games alone: environments and random numbers are seeded by the games' and
pairs' own numbers, and which decisions share a forward pass depends on nothing else. So it does not matter which
process plays a batch, or whether it was begun before and lost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from marl.games.game import Arena, Ending, Forfeit, Game, GameRules, PlayedGame
from marl.games.player import DecisionRequest, Player, PlayerError
from marl.games.policy_players import write_random_actions
from marl.games.sides import Sides
from marl.progress import Progress, unwatched
from marl.random_streams import Stream, derive_int
from marl.specs import ActionSpec, ContinuousActions, DiscreteActions
from marl.types import Array, Bools, Integers, TimeStep

_NOISE_ROWS: Final = 16
_RETURN_DIGITS: Final = 9
"""Returns that agree to so many decimals are equal: sums of floats come in any order."""


def play_games(
    arena: Arena,
    sides: Sides,
    players: Mapping[str, Player],
    games: Sequence[Game],
    rules: GameRules,
    *,
    purpose: str = "game",
    progress: Progress = unwatched,
) -> list[PlayedGame]:
    """Plays a batch of games side by side, each to its end.

    Args:
        arena: with at least as many environments as there are games.
        sides: of the game; their order is that of ``Game.players``.
        players: by name, all that the games name. A player that takes part in several games plays them at once.
        games: with consecutive indices.
        rules: seed, limits, random moves at the beginning.
        purpose: part of every seed.
        progress: told of the batch's games at every step.

    Returns:
        One result a game, in their order.

    Raises:
        ValueError: games without consecutive indices, or more of them than environments.
    """
    return GameBatch(arena, sides, players, games, rules, purpose).play(progress)


@dataclass(slots=True)
class _Participant:
    name: str
    player: Player
    owned: Bools
    """(G, N), the agents that it plays."""
    games: Integers
    """In which it plays, by index in the batch."""


@dataclass(slots=True)
class _GameEnd:
    length: int
    ending: Ending
    forfeits: dict[int, Forfeit] = field(default_factory=dict)
    """By side."""


class GameBatch:
    """One batch of games while it is played; see ``play_games``."""

    def __init__(
        self,
        arena: Arena,
        sides: Sides,
        players: Mapping[str, Player],
        games: Sequence[Game],
        rules: GameRules,
        purpose: str,
    ) -> None:
        count = len(games)
        if not count or count > arena.num_envs:
            raise ValueError(f"{count} games do not fit in {arena.num_envs} environments")
        first = games[0].index
        if [game.index for game in games] != list(range(first, first + count)):
            raise ValueError("the games of a batch have consecutive indices")
        self._arena, self._sides, self._games, self._rules, self._purpose = arena, sides, games, rules, purpose
        spec = arena.spec
        columns = {agent: column for column, agent in enumerate(a for group in spec.groups for a in group.agents)}
        self._side_columns = [[columns[agent] for agent in agents] for agents in sides.agents]
        self._participants = []
        names = sorted({name for game in games for name in game.players})
        taken = np.array([[names.index(name) for name in game.players] for game in games])
        for number, name in enumerate(names):
            owned = (taken == number)[:, sides.of_agent.numpy()]
            self._participants.append(
                _Participant(name=name, player=players[name], owned=owned, games=np.flatnonzero(owned.any(1)))
            )
        shape = (arena.num_envs,)
        self._actions = [np.zeros((*shape, g.size, *g.action.array.shape), _dtype(g.action)) for g in spec.groups]
        self._returns = np.zeros((count, len(columns)))
        self._trace = np.zeros(count, dtype=np.uint64)
        self._ends: dict[int, _GameEnd] = {}
        self._num_uniforms = max(participant.player.num_uniforms for participant in self._participants)
        self._stream = Stream(rules.seed, f"{purpose}/decisions", first_env=first, num_envs=count)
        self._noise: Tensor | None = None
        self._opening_uniforms = self._draw_opening(len(columns))

    def _draw_opening(self, num_agents: int) -> Tensor:
        """Uniforms of the random moves at the beginning, (moves, G, N, choices): equal in the games of a pair."""
        rules = self._rules
        if not rules.random_opening_moves:
            return torch.zeros(0)
        choices = max(group.action.array.size for group in self._arena.spec.groups)
        pairs = torch.tensor([game.pair for game in self._games])
        low, high = int(pairs.min()), int(pairs.max())
        stream = Stream(rules.seed, f"{self._purpose}/opening", first_env=low, num_envs=high - low + 1)
        drawn = stream.uniforms(0, num_agents * choices, rows=rules.random_opening_moves)
        return drawn.view(rules.random_opening_moves, -1, num_agents, choices)[:, pairs - low]

    def play(self, progress: Progress = unwatched) -> list[PlayedGame]:
        """Plays all games to their ends, and returns them in their order."""
        rules, arena, count = self._rules, self._arena, len(self._games)
        spec = arena.spec
        for one in self._participants:
            seeds = [derive_int(rules.seed, f"{self._purpose}/player/{one.name}", g.index) for g in self._games]
            one.player.begin(spec, count, one.owned, seeds)
        step = arena.begin([derive_int(rules.seed, f"{self._purpose}/environment", g.pair) for g in self._games])
        actives = [step.groups[group.name].active.numpy() for group in spec.groups]
        rewards = [step.groups[group.name].rewards.numpy() for group in spec.groups]
        playing = np.arange(count)
        for time in range(rules.max_steps):
            active = np.concatenate([rows[:count] for rows in actives], axis=1)
            if time < rules.random_opening_moves:
                self._move_at_random(step, active, playing, time)
            self._request_decisions(step, active, playing, time)
            if self._ends:
                playing = playing[[game not in self._ends for game in playing.tolist()]]
                if not len(playing):
                    break
            self._update_traces(active, playing)
            ended = arena.step(playing, self._actions)
            progress("games of this batch", len(self._ends) + len(ended), count)
            self._returns[playing] += np.concatenate([rows[playing] for rows in rewards], axis=1)
            for game in ended:
                self._ends[game] = _GameEnd(length=time + 1, ending="finished")
            if ended:
                playing = np.setdiff1d(playing, ended, assume_unique=True)
                if not len(playing):
                    break
        for game in playing.tolist():
            self._ends.setdefault(game, _GameEnd(length=rules.max_steps, ending="step_limit"))
        return [self._result(game) for game in range(count)]

    def _move_at_random(self, step: TimeStep, active: Bools, playing: Integers, time: int) -> None:
        uniforms = self._opening_uniforms[time, torch.from_numpy(playing)]
        request = self._request(step, playing, active[playing], time, uniforms)
        write_random_actions(self._arena.spec, request, uniforms)

    def _request_decisions(self, step: TimeStep, active: Bools, playing: Integers, time: int) -> None:
        """Asks every player once for its decisions in all its games."""
        opening = time < self._rules.random_opening_moves
        uniforms = self._next_uniforms(time, active.shape[1])
        still = np.zeros(len(self._games), dtype=bool)
        still[playing] = True
        for participant in self._participants:
            player = participant.player
            if opening and not player.remembers:
                continue
            games = participant.games[still[participant.games]]
            must = active[games] & participant.owned[games]
            if not player.remembers:
                acts = must.any(1)
                games, must = games[acts], must[acts]
            if not len(games):
                continue
            mine = None if uniforms is None else uniforms[torch.from_numpy(games)]
            request = self._request(step, games, np.zeros_like(must) if opening else must, time, mine)
            errors = player.act(request)
            for error in errors + self._illegal_actions(request, {error.game for error in errors}):
                self._forfeit(participant, error, time)

    def _request(
        self, step: TimeStep, games: Integers, must: Bools, time: int, uniforms: Tensor | None
    ) -> DecisionRequest:
        return DecisionRequest(
            games=games,
            step=step,
            must_act=must,
            first=time == 0,
            uniforms=uniforms,
            actions=self._actions,
            move_seconds=self._rules.move_seconds,
        )

    def _next_uniforms(self, time: int, agents: int) -> Tensor | None:
        if not self._num_uniforms:
            return None
        row = time % _NOISE_ROWS
        if row == 0:
            self._noise = self._stream.uniforms(time, agents * self._num_uniforms, rows=_NOISE_ROWS)
        assert self._noise is not None
        return self._noise[row].view(len(self._games), agents, self._num_uniforms)

    def _illegal_actions(self, request: DecisionRequest, failed: set[int]) -> list[PlayerError]:
        """Errors for actions that the rules do not allow, found before an environment sees them."""
        errors: dict[int, PlayerError] = {}
        column = 0
        for index, group in enumerate(self._arena.spec.groups):
            stop = column + group.size
            at, rows = np.nonzero(request.must_act[:, column:stop])
            column = stop
            if not len(at):
                continue
            games = request.games[at]
            masks = request.step.groups[group.name].action_masks
            chosen = self._actions[index][games, rows]
            legal = _legal(group.action, chosen, None if masks is None else masks.numpy()[games, rows])
            for place in np.flatnonzero(~legal).tolist():
                game = int(games[place])
                if game not in failed and game not in errors:
                    detail = f"{group.agents[rows[place]]} played {_show(chosen[place])}, which is not legal"
                    errors[game] = PlayerError(game=game, kind="illegal", detail=detail)
        return list(errors.values())

    def _forfeit(self, participant: _Participant, error: PlayerError, time: int) -> None:
        end = self._ends.setdefault(error.game, _GameEnd(length=time, ending="forfeit"))
        forfeit = Forfeit(player=participant.name, kind=error.kind, detail=error.detail)
        for side, name in enumerate(self._games[error.game].players):
            if name == participant.name:
                end.forfeits[side] = forfeit

    def _update_traces(self, active: Bools, playing: Integers) -> None:
        """Mixes the actions into the games' traces."""
        column = 0
        for index, actions in enumerate(self._actions):
            agents = actions.shape[1]
            rows = actions[playing].reshape(len(playing), agents, -1)
            bits = rows.view(np.int64 if rows.dtype == np.int64 else np.int32).astype(np.uint64)
            acts = active[playing, column : column + agents]
            bits = np.where(acts[..., None], bits + np.uint64(1), np.uint64(0)).reshape(len(playing), -1)
            weights = np.arange(1, 2 * bits.shape[1], 2, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
            mixed = (bits * weights).sum(1, dtype=np.uint64) + np.uint64(index)
            self._trace[playing] = (self._trace[playing] ^ mixed) * np.uint64(0xD6E8FEB86659FD93)
            self._trace[playing] ^= self._trace[playing] >> np.uint64(32)
            column += agents

    def _result(self, index: int) -> PlayedGame:
        game, end = self._games[index], self._ends[index]
        returns = tuple(float(self._returns[index, columns].sum()) for columns in self._side_columns)
        if end.ending == "finished":
            values = [round(value, _RETURN_DIGITS) for value in returns]
        else:
            # Those that did not forfeit did equally well; at the step limit that is all.
            values = [-1.0 if side in end.forfeits else 0.0 for side in range(len(returns))]
        return PlayedGame(
            index=game.index,
            pair=game.pair,
            players=game.players,
            returns=returns,
            places=tuple(sum(other > value for other in values) for value in values),
            length=end.length,
            ending=end.ending,
            forfeits=tuple(end.forfeits.values()),
            trace=int(self._trace[index]),
        )


def _legal(action: ActionSpec, chosen: Array, masks: Bools | None) -> Bools:
    """True for those of B actions (B, ...) that are legal: (B,)."""
    if isinstance(action, ContinuousActions):
        return np.asarray(np.isfinite(chosen).all(1))
    nvec = np.array([action.num_actions] if isinstance(action, DiscreteActions) else action.nvec)
    choices = chosen.reshape(len(chosen), -1)
    within = (choices >= 0) & (choices < nvec)
    if masks is not None:
        starts = np.concatenate(([0], np.cumsum(nvec)[:-1]))
        places = np.clip(choices, 0, nvec - 1) + starts
        within &= np.take_along_axis(masks, places, axis=1)
    return np.asarray(within.all(1))


def _dtype(action: ActionSpec) -> Any:
    return np.float32 if isinstance(action, ContinuousActions) else np.int64


def _show(action: Array) -> str:
    return " ".join(str(action.tolist()).split())[:80]
