"""Cooperative games in tournaments: they are recognised, and players are ranked by what they reach with others."""

import json

import numpy as np
import pytest

from marl.games.game import PlayedGame
from marl.launchers.tournament.cooperation import cross_play, is_cooperative

CLIMBING = "envs.matrix_games:climbing"


def games(*returns, players=None):
    return [
        PlayedGame(
            index=index,
            pair=index // 2,
            players=tuple("ab") if players is None else players[index],
            returns=tuple(row),
            places=(0,) * len(row),
            length=1,
            ending="finished",
            forfeits=(),
            trace=0,
        )
        for index, row in enumerate(returns)
    ]


@pytest.mark.parametrize(
    ("returns", "expected"),
    [
        ([(3.0, 3.0), (-1.0, -1.0), (11.0, 11.0)], True),  # one reward for all
        ([(-10.0, -10.0), (-10.0, -10.0)], True),  # the same, and always the same
        ([(-12.5, -12.0), (-8.9, -8.9), (-30.1, -29.6)], True),  # and a little of one's own
        ([(1.0, -1.0), (-1.0, 1.0), (0.0, 0.0)], False),  # zero sum
        ([(0.0, 0.0), (0.0, 0.0)], False),  # draws alone
        ([(4.0, 4.0), (3.0, 0.0), (0.0, 3.0), (3.0, 3.0)], False),  # stag hunt
        ([(3.0, 3.0), (1.0, 1.0), (5.0, 0.0), (0.0, 5.0)], False),  # prisoners' dilemma
        ([(8.0, 0.0), (0.0, 6.0), (3.0, 5.0)], False),  # for a prize
        ([], False),
    ],
)
def test_a_game_is_cooperative_where_returns_rise_and_fall_together(returns, expected):
    assert is_cooperative(games(*returns)) is expected


def test_cross_play_has_the_mean_return_of_each_two_players():
    found = cross_play(
        games((1.0, 1.0), (3.0, 3.0), (7.0, 7.0), players=[("a", "b"), ("b", "a"), ("a", "c")]), ["a", "b", "c"]
    )
    np.testing.assert_array_equal(found, [[np.nan, 2.0, 7.0], [2.0, np.nan, np.nan], [7.0, np.nan, np.nan]])


def test_players_of_a_cooperative_game_are_ranked_by_mean_return(marl, tmp_path):
    """Climbing by hand, 25 steps, half a payoff for each: with random partners, who always plays the third earns
    25 / 2 * (5 / 3) in one seat and 25 / 2 * (11 / 3) in the other, who always plays the first loses 25 / 2 * (19 / 3);
    together those have 0. Nobody beats anybody within a game, so all had the same Elo."""
    players = ("low=toy_match:Low", "random", "high=toy_match:High")
    done = marl("tournament", CLIMBING, "--players", *players, "--games", 200, "--out", tmp_path / "out")
    assert (done.code, done.stderr) == (0, ""), done
    assert "ranked by mean return" in done.stdout
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert found["ranked_by"] == "mean_return"
    assert [one["player"] for one in found["ratings"]] == ["high", "random", "low"]
    table = found["payoff"]["mean_returns"]
    expected = np.array([[np.nan, -475 / 6, 0.0], [-475 / 6, np.nan, 100 / 3], [0.0, 100 / 3, np.nan]])
    np.testing.assert_allclose(np.array(table, dtype=float), expected, atol=12)
    assert table[0][2] == table[2][0] == 0.0
    for one in found["ratings"]:
        low, high = one["return_interval"]
        assert low < one["mean_return"] < high
    assert "win and lose together" in (tmp_path / "out" / "report.html").read_text()
    done = marl(
        "tournament", CLIMBING, "--players", *players, "--games", 2, "--scoring", "game", "--out", tmp_path / "elo"
    )
    assert "Elo" in done.stdout
    assert json.loads((tmp_path / "elo" / "results.json").read_text())["ranked_by"] == "elo"


def test_a_competitive_game_keeps_its_elo(marl, tmp_path):
    players = ("high=toy_match:High", "low=toy_match:Low", "random")
    done = marl("tournament", "toy_match:make", "--players", *players, "--games", 10, "--out", tmp_path / "out")
    assert "Elo" in done.stdout
    assert "together" not in done.stdout
