"""The checker of tic-tac-toe policies, against players whose strength is known."""

import functools

import numpy as np
import pettingzoo
import pytest
import torch
from tictactoe import EMPTY, lost_boards, observation, place, winner

from marl.core import EnvironmentRequest
from marl.envs.factory import make_factory
from marl.policy import Decision, Policy


@functools.cache
def value(board, seat):
    """What the seat to move gets under best play: 1, 0 or -1."""
    best = -1
    for square in (square for square in range(9) if board[square] == 0):
        moved = place(board, square, seat)
        if winner(moved) is not None:
            return 1
        best = max(best, 0 if 0 not in moved else -value(moved, 1 - seat))
    return best


class ByRule(Policy):
    """Moves by a function of the board and of the seat."""

    def __init__(self, rule):
        self.rule = rule

    def act(self, step, first, state, uniforms):
        actions = torch.zeros(step.active.shape, dtype=torch.int64)
        for row, seat in step.active.nonzero().tolist():
            own, other = step.observations[row, seat].flatten(0, 1).bool().t()
            board = tuple((own * (seat + 1) + other * (2 - seat)).tolist())
            actions[row, seat] = self.rule(board, seat)
        return Decision(actions=actions, extras={}, state=None)


def legal(board):
    return [square for square in range(9) if board[square] == 0]


def perfect(board, seat):
    def worth(square):
        moved = place(board, square, seat)
        if winner(moved) is not None:
            return 1
        return 0 if 0 not in moved else -value(moved, 1 - seat)

    return max(legal(board), key=worth)


@pytest.fixture(scope="module")
def spec():
    return make_factory("classic/tictactoe-v3")(EnvironmentRequest(num_envs=1)).spec


def test_the_game_is_a_draw_and_a_perfect_player_cannot_be_beaten(spec):
    assert value(EMPTY, 0) == 0
    assert lost_boards(ByRule(perfect), spec) == (set(), set())


def test_one_mistake_is_found(spec):
    """Against opposite corners, with the centre taken, edges draw and corners lose."""
    trap = (1, 0, 0, 0, 2, 0, 0, 0, 1)

    def nearly(board, seat):
        return 2 if board == trap else perfect(board, seat)

    first, second = lost_boards(ByRule(nearly), spec)
    assert first == set()
    assert second
    assert all(winner(board) == 0 for board in second)


def test_a_player_without_a_plan_is_beaten_from_both_seats(spec):
    first, second = lost_boards(ByRule(lambda board, seat: legal(board)[-1]), spec)
    assert first
    assert second


def test_boards_are_shown_as_pettingzoo_shows_them():
    environment = pettingzoo.make("aec", "classic/tictactoe-v3")
    environment.reset(seed=0)
    board = EMPTY
    for turn, square in enumerate((4, 0, 8, 2, 1)):
        seen = environment.observe(environment.agent_selection)
        assert np.array_equal(seen["observation"], observation(board, turn % 2).numpy())
        assert seen["action_mask"].nonzero()[0].tolist() == legal(board)
        board = place(board, square, turn % 2)
        environment.step(square)
    environment.close()
