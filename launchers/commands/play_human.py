"""``marl play RUN --human``: a person against a run's policies, in the terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np
import torch

from marl.acting.modes import Mode
from marl.envs.factory import make_constructor
from marl.envs.pettingzoo.arena import PettingZooArena
from marl.envs.preprocessing import preprocessed
from marl.errors import InputError, nearest
from marl.games.batch import play_games
from marl.games.game import Game, GameRules, PlayedGame
from marl.games.player import DecisionRequest, Player, PlayerError
from marl.games.policy_players import PolicyPlayer
from marl.games.sides import Sides
from marl.launchers.run.policy_sources import read_source
from marl.launchers.run.settings import read_env_kwargs
from marl.specs import DiscreteActions, EnvironmentSpec
from marl.types import Array, Bools

PERSON, MACHINE = "you", "run"


class LeftError(Exception):
    """Raised when the person does not want to play on."""


def play_in_terminal(
    source: Path | str,
    *,
    seat: str | None = None,
    seed: int = 0,
    max_steps: int = 1000,
    reads: IO[str] | None = None,
    writes: IO[str] | None = None,
    mode: Mode = "greedy",
) -> list[PlayedGame]:
    """Plays games until the person leaves; after each, seats are exchanged.

    Args:
        source: a run, a checkpoint, or a snapshot of a league.
        seat: the agent that the person plays first; the first one if not given.
        seed: from which chance and the machine's decisions follow.
        max_steps: a game that has not ended by then is a draw.
        reads: the person's answers; standard input by default.
        writes: takes the board; standard output by default.
        mode: how the machine plays.

    Returns:
        The games that were played to their end.

    Raises:
        InputError: it is no turn-based game of two sides with numbered moves, or there is no such seat.
    """
    reads, writes = reads or sys.stdin, writes or sys.stdout
    trained = read_source(str(source), action_selection=mode)
    kwargs = read_env_kwargs(trained.settings.env_kwargs)
    arena = PettingZooArena(preprocessed(make_constructor(trained.env, kwargs), trained.settings.preprocessing), 1)
    try:
        spec = arena.spec
        sides = Sides(spec)
        discrete = all(isinstance(group.action, DiscreteActions) for group in spec.groups)
        if not (spec.turn_based and discrete and len(sides) == 2 and len(spec.agents) == 2):
            raise InputError(f"{trained.env} is no board game for two: those can be played in the terminal")
        if seat is not None and seat not in spec.agents:
            raise InputError(f"there is no seat {seat!r}{nearest(seat, spec.agents)}")
        person = _Person(reads, writes, partial(arena.text, 0))
        players: dict[str, Player] = {PERSON: person, MACHINE: PolicyPlayer(trained.spec, trained.policies)}
        mine = 0 if seat is None else [agents[0] for agents in sides.agents].index(seat)
        rules = GameRules(seed=seed, max_steps=max_steps, move_seconds=0.0)
        played: list[PlayedGame] = []
        try:
            while True:
                number = len(played)
                taken = (PERSON, MACHINE) if (mine + number) % 2 == 0 else (MACHINE, PERSON)
                game = Game(index=number, pair=number, players=taken)
                print(f"You are {sides.names[taken.index(PERSON)]}. A number moves, q leaves.", file=writes)
                (result,) = play_games(arena, sides, players, [game], rules, purpose="play")
                played.append(result)
                board = _final_board(arena, sides.agents[taken.index(PERSON)][0])
                if board:
                    print(board, file=writes)
                print(_verdict(result), file=writes)
                if person.ask("Another game, with seats exchanged? [y/N] ").lower() not in ("y", "yes"):
                    break
        except LeftError:
            print("Good bye.", file=writes)
        return played
    finally:
        arena.close()


def _verdict(result: PlayedGame) -> str:
    place = result.places[result.players.index(PERSON)]
    if result.ending == "step_limit":
        return f"Stopped after {result.length} moves: a draw."
    if result.places == (0, 0):
        return "A draw."
    return "You win." if place == 0 else "You lose."


class _Person(Player):
    """A player that shows the board and reads moves."""

    def __init__(self, reads: IO[str], writes: IO[str], text: Callable[[], str]) -> None:
        self._reads, self._writes, self._text = reads, writes, text
        self._spec: EnvironmentSpec | None = None

    def begin(self, spec: EnvironmentSpec, num_games: int, owned: Bools, seeds: Sequence[int]) -> None:
        self._spec = spec

    def ask(self, question: str) -> str:
        """The next line without blanks around it; raises LeftError where there is none."""
        print(question, end="", flush=True, file=self._writes)
        line = self._reads.readline()
        if not line:
            print(file=self._writes)
            raise LeftError
        return line.strip()

    def act(self, request: DecisionRequest) -> list[PlayerError]:
        assert self._spec is not None
        seats = [(index, group, row) for index, group in enumerate(self._spec.groups) for row in range(group.size)]
        index, group, column = seats[int(np.flatnonzero(request.must_act[0])[0])]
        assert isinstance(group.action, DiscreteActions)
        step = request.step.groups[group.name]
        legal = list(range(group.action.num_actions))
        if step.action_masks is not None:
            legal = torch.nonzero(step.action_masks[0, column]).flatten().tolist()
        board = draw_board(step.observations[0, column].numpy(), group.action.num_actions, legal) or self._text()
        if board:
            print(board, file=self._writes)
        request.actions[index][0, column] = self._move(legal)
        return []

    def _move(self, legal: list[int]) -> int:
        while True:
            answer = self.ask(f"Your move ({_listed(legal)}): ")
            if answer.lower() in ("q", "quit"):
                raise LeftError
            try:
                move = int(answer)
            except ValueError:
                print(f"{answer!r} is no number.", file=self._writes)
                continue
            if move in legal:
                return move
            print(f"{move} is not legal now.", file=self._writes)


def _listed(moves: list[int]) -> str:
    """``0 to 6``, or ``0, 2, 5``."""
    if len(moves) > 2 and moves == list(range(moves[0], moves[-1] + 1)):
        return f"{moves[0]} to {moves[-1]}"
    return ", ".join(map(str, moves))


def _final_board(arena: PettingZooArena, agent: str) -> str:
    final = arena.final()
    if final is None:
        return ""
    for group in arena.spec.groups:
        if agent in group.agents and isinstance(group.action, DiscreteActions):
            rows = final.groups[group.name].observations[0, group.agents.index(agent)]
            return draw_board(rows.numpy(), group.action.num_actions, [])
    return ""


def draw_board(observation: Array, num_actions: int, legal: Sequence[int]) -> str:
    """A board of two planes, one's own pieces (X) and the other's (O), as text; nothing for other observations.

    Args:
        observation: (height, width, 2).
        num_actions: one a square, row by row, or one a column; such moves are shown where they are.
        legal: moves to show.
    """
    if observation.ndim != 3 or observation.shape[2] != 2:
        return ""
    height, width, _ = observation.shape
    size = max(1, len(str(num_actions - 1)))
    lines = []
    for row in range(height):
        cells = []
        for column in range(width):
            mine, theirs = observation[row, column] > 0
            square = row * width + column
            empty = str(square) if num_actions == height * width and square in legal else "."
            cells.append(("X" if mine else "O" if theirs else empty).rjust(size))
        lines.append(" ".join(cells))
    if num_actions == width:
        lines.append(" ".join((str(column) if column in legal else "").rjust(size) for column in range(width)))
    return "\n".join(line.rstrip() for line in lines)
