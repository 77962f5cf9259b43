"""Games between players: many boards at once, every player's decisions batched, and forfeits told apart.

A game is one episode of an environment whose agents are divided into sides; each side is taken by one player for the
whole episode. Games are played in blocks of consecutive numbers on as many boards. What happens in a block is a
function of the seed and of its games alone: environments and random numbers are seeded by the games' and pairs' own
numbers, and which decisions share a forward pass depends on nothing else. So it does not matter which process plays
a block, or whether it was begun before and lost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from marl.games.game import Arena, Ending, Forfeit, Game, GameRules, PlayedGame
from marl.games.player import Player, PlayerError, Turn
from marl.games.players import num_choices, write_random
from marl.games.sides import Side
from marl.specs import ActionSpec, ContinuousActions, DiscreteActions
from marl.streams import Stream, derive_int
from marl.types import Array, Bools, Integers, TimeStep

_NOISE_ROWS: Final = 16
_RETURN_DIGITS: Final = 9
"""Returns that agree to so many decimals are equal: sums of floats come in any order."""


def play_games(
    arena: Arena,
    sides: Sequence[Side],
    players: Mapping[str, Player],
    games: Sequence[Game],
    rules: GameRules,
    *,
    purpose: str = "game",
) -> list[PlayedGame]:
    """Plays a block of games side by side, one a board, each to its end.

    Args:
        arena: with at least as many boards as there are games.
        sides: who belongs together; the order is that of ``Game.players``.
        players: by name, all that the games name. A player that takes part in several games plays them at once.
        games: with consecutive indices.
        rules: seed, limits, opening.
        purpose: part of every seed.

    Returns:
        One result a game, in their order.

    Raises:
        ValueError: games without consecutive indices, or more of them than boards.
    """
    return GameBatch(arena, sides, players, games, rules, purpose).play()


@dataclass(slots=True)
class _Seated:
    name: str
    player: Player
    owned: Bools
    """(E, N)."""
    boards: Integers
    """Where it plays."""


@dataclass(slots=True)
class _Ended:
    length: int
    ending: Ending
    forfeits: dict[int, Forfeit] = field(default_factory=dict)
    """By side."""


class GameBatch:
    """One block of games while it is played."""

    def __init__(
        self,
        arena: Arena,
        sides: Sequence[Side],
        players: Mapping[str, Player],
        games: Sequence[Game],
        rules: GameRules,
        purpose: str,
    ) -> None:
        count = len(games)
        if not count or count > arena.boards:
            raise ValueError(f"{count} games do not fit on {arena.boards} boards")
        first = games[0].index
        if [game.index for game in games] != list(range(first, first + count)):
            raise ValueError("the games of a block have consecutive indices")
        self._arena, self._sides, self._games, self._rules, self._purpose = arena, sides, games, rules, purpose
        spec = arena.spec
        columns = {agent: column for column, agent in enumerate(a for group in spec.groups for a in group.agents)}
        self._side_columns = [[columns[agent] for agent in side.agents] for side in sides]
        self._side_of = np.zeros(len(columns), dtype=np.int64)
        for side, chosen in enumerate(self._side_columns):
            self._side_of[chosen] = side
        self._seated = []
        names = sorted({name for game in games for name in game.players})
        taken = np.array([[names.index(name) for name in game.players] for game in games])
        for number, name in enumerate(names):
            owned = (taken == number)[:, self._side_of]
            self._seated.append(
                _Seated(name=name, player=players[name], owned=owned, boards=np.flatnonzero(owned.any(1)))
            )
        boards = arena.boards
        self._actions = [np.zeros((boards, g.size, *g.action.array.shape), _dtype(g.action)) for g in spec.groups]
        self._returns = np.zeros((count, len(columns)))
        self._trace = np.zeros(count, dtype=np.uint64)
        self._ended: dict[int, _Ended] = {}
        needed = [seated.player.num_uniforms for seated in self._seated]
        self._uniforms = max(needed)
        self._stream = Stream(rules.seed, f"{purpose}/decisions", first_env=first, num_envs=count)
        self._noise: Tensor | None = None
        self._choices = max(num_choices(group.action) for group in spec.groups)
        pairs = torch.tensor([game.pair for game in games])
        self._openings = torch.zeros(0)
        if rules.opening:
            low, high = int(pairs.min()), int(pairs.max())
            stream = Stream(rules.seed, f"{purpose}/opening", first_env=low, num_envs=high - low + 1)
            drawn = stream.uniforms(0, len(columns) * self._choices, rows=rules.opening)
            self._openings = drawn.view(rules.opening, -1, len(columns), self._choices)[:, pairs - low]

    def play(self) -> list[PlayedGame]:
        """Plays all games to their ends, and returns them in their order."""
        rules, arena, count = self._rules, self._arena, len(self._games)
        spec = arena.spec
        for seated in self._seated:
            seeds = [derive_int(rules.seed, f"{self._purpose}/player/{seated.name}", g.index) for g in self._games]
            seated.player.begin(spec, count, seated.owned, seeds)
        step = arena.begin([derive_int(rules.seed, f"{self._purpose}/environment", g.pair) for g in self._games])
        actives = [step.groups[group.name].active.numpy() for group in spec.groups]
        rewards = [step.groups[group.name].rewards.numpy() for group in spec.groups]
        playing = np.arange(count)
        for time in range(rules.max_steps):
            active = np.concatenate([rows[:count] for rows in actives], axis=1)
            if time < rules.opening:
                self._open(step, active, playing, time)
            self._decide(step, active, playing, time)
            if self._ended:
                playing = playing[[board not in self._ended for board in playing.tolist()]]
                if not len(playing):
                    break
            self._note(active, playing)
            ended = arena.step(playing, self._actions)
            self._returns[playing] += np.concatenate([rows[playing] for rows in rewards], axis=1)
            for board in ended:
                self._ended[board] = _Ended(length=time + 1, ending="finished")
            if ended:
                playing = np.setdiff1d(playing, ended, assume_unique=True)
                if not len(playing):
                    break
        for board in playing.tolist():
            self._ended.setdefault(board, _Ended(length=rules.max_steps, ending="step_limit"))
        return [self._result(board) for board in range(count)]

    def _open(self, step: TimeStep, active: Bools, playing: Integers, time: int) -> None:
        uniforms = self._openings[time, torch.from_numpy(playing)]
        turn = self._turn(step, playing, active[playing], time, uniforms)
        write_random(self._arena.spec, turn, uniforms)

    def _decide(self, step: TimeStep, active: Bools, playing: Integers, time: int) -> None:
        """Asks every player once for all its boards."""
        opening = time < self._rules.opening
        uniforms = self._next_uniforms(time, active.shape[1])
        still = np.zeros(len(self._games), dtype=bool)
        still[playing] = True
        for seated in self._seated:
            player = seated.player
            if opening and not player.remembers:
                continue
            boards = seated.boards[still[seated.boards]]
            must = active[boards] & seated.owned[boards]
            if not player.remembers:
                asked = must.any(1)
                boards, must = boards[asked], must[asked]
            if not len(boards):
                continue
            mine = None if uniforms is None else uniforms[torch.from_numpy(boards)]
            turn = self._turn(step, boards, np.zeros_like(must) if opening else must, time, mine)
            faults = player.act(turn)
            failed = {fault.board for fault in faults}
            faults += self._illegal(turn, failed)
            for fault in faults:
                self._forfeit(seated, fault, time)

    def _turn(self, step: TimeStep, boards: Integers, must: Bools, time: int, uniforms: Tensor | None) -> Turn:
        return Turn(
            boards=boards,
            step=step,
            must_act=must,
            first=time == 0,
            uniforms=uniforms,
            actions=self._actions,
            move_seconds=self._rules.move_seconds,
        )

    def _next_uniforms(self, time: int, agents: int) -> Tensor | None:
        if not self._uniforms:
            return None
        row = time % _NOISE_ROWS
        if row == 0:
            self._noise = self._stream.uniforms(time, agents * self._uniforms, rows=_NOISE_ROWS)
        assert self._noise is not None
        return self._noise[row].view(len(self._games), agents, self._uniforms)

    def _illegal(self, turn: Turn, failed: set[int]) -> list[PlayerError]:
        """Faults for actions that the rules do not allow, looked at before an environment sees them."""
        faults: dict[int, PlayerError] = {}
        column = 0
        for index, group in enumerate(self._arena.spec.groups):
            stop = column + group.size
            at, rows = np.nonzero(turn.must_act[:, column:stop])
            column = stop
            if not len(at):
                continue
            boards = turn.boards[at]
            masks = turn.step.groups[group.name].action_masks
            chosen = self._actions[index][boards, rows]
            legal = _legal(group.action, chosen, None if masks is None else masks.numpy()[boards, rows])
            for place in np.flatnonzero(~legal).tolist():
                board = int(boards[place])
                if board not in failed and board not in faults:
                    detail = f"{group.agents[rows[place]]} played {_show(chosen[place])}, which is not legal"
                    faults[board] = PlayerError(board=board, kind="illegal", detail=detail)
        return list(faults.values())

    def _forfeit(self, seated: _Seated, fault: PlayerError, time: int) -> None:
        ended = self._ended.setdefault(fault.board, _Ended(length=time, ending="forfeit"))
        forfeit = Forfeit(player=seated.name, kind=fault.kind, detail=fault.detail)
        for side, name in enumerate(self._games[fault.board].players):
            if name == seated.name:
                ended.forfeits[side] = forfeit

    def _note(self, active: Bools, playing: Integers) -> None:
        """Takes the actions into the games' traces."""
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

    def _result(self, board: int) -> PlayedGame:
        game, ended = self._games[board], self._ended[board]
        returns = tuple(float(self._returns[board, columns].sum()) for columns in self._side_columns)
        if ended.ending == "finished":
            values = [round(value, _RETURN_DIGITS) for value in returns]
        else:
            # Whoever did not forfeit did equally well; at the step limit that is everybody.
            values = [-1.0 if side in ended.forfeits else 0.0 for side in range(len(returns))]
        return PlayedGame(
            index=game.index,
            pair=game.pair,
            players=game.players,
            returns=returns,
            places=tuple(sum(other > value for other in values) for value in values),
            length=ended.length,
            ending=ended.ending,
            forfeits=tuple(ended.forfeits.values()),
            trace=int(self._trace[board]),
        )


def _legal(action: ActionSpec, chosen: Array, masks: Bools | None) -> Bools:
    """Which of B actions (B, ...) are legal: (B,)."""
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
