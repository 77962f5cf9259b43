"""Wins and losses are counted where one side gains what the others lose."""

import pytest
import torch

from marl.acting.metric_names import agent_label
from marl.acting.outcomes import Outcomes, are_opposed, points_of


def returns(*rows):
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize(
    ("rows", "opposed"),
    [
        ([[1, -1], [0, 0]], True),
        ([[1, 0], [0, 1]], True),  # a constant sum, which changes hands
        ([[2, -1, -1], [-1, -1, 2]], True),
        ([[0.1 + 0.2, -0.3], [-0.1, 0.1]], True),
        ([[5, 10], [5, 10]], None),  # two agents that are paid what they are paid
        ([[0, 0], [0, 0]], None),
        ([[3, 3], [3, 3]], None),
        ([[1, 1], [0, 0]], False),
        ([[1, 0], [0, 0]], False),
        ([[1, -2], [0, 0]], False),
    ],
)
def test_sides_are_opposed_where_their_returns_add_up_to_a_constant_that_changes_hands(rows, opposed):
    assert are_opposed(returns(*rows)) is opposed


def test_points_are_halved_among_several_that_did_best():
    games = returns([1, -1], [0, 0], [-3, 3])
    assert points_of(games).tolist() == [[1, 0], [0.5, 0.5], [0, 1]]
    assert points_of(returns([2, 2, 1], [5, 1, 1])).tolist() == [[0.5, 0.5, 0], [1, 0, 0]]


def test_rates_are_of_the_games_from_each_side():
    games = returns([1, -1], [1, -1], [0, 0], [1, -1])
    own = Outcomes(sides=("a", "b"), returns=games).summary("x/")
    assert own == {
        "x/win_rate/a": 0.75,
        "x/draw_rate/a": 0.25,
        "x/loss_rate/a": 0.0,
        "x/win_rate/b": 0.0,
        "x/draw_rate/b": 0.25,
        "x/loss_rate/b": 0.75,
    }
    other = Outcomes(sides=("a", "b"), returns=games, played=torch.tensor([0, 1, 0, 1])).summary("x/")
    assert (other["x/return/a"], other["x/win_rate/a"]) == (0.5, 0.5)
    assert (other["x/return/b"], other["x/loss_rate/b"]) == (-1.0, 1.0)
    # 1 + 0.5 points of two games, and none of the other two.
    assert (other["x/score"], other["x/games"]) == (0.375, 4)


def test_labels_differ_as_agents_do_and_none_is_taken_for_the_mean():
    names = ["", "mean", "'' (agent)", "mean (agent)", "a", "mean (agent) (agent)", "''"]
    labels = [agent_label(name) for name in names]
    assert len(set(labels)) == len(names)
    assert not {"", "mean"} & set(labels)
    assert agent_label("robot.1/x %") == "robot.1/x %"
