"""Learned best responses: a lower bound of exploitability that keeps to what is exact, with and without a game tree."""

import json

import numpy as np
import pytest
import torch

from marl.self_play.best_response import FixedOpponents, measure_gains
from marl.self_play.opponents import LEARNER

KUHN = "openspiel/kuhn_poker"
RPS = "envs.matrix_games:rock_paper_scissors"
QUICK = ("--response.num-envs", 16, "--response.games", 600)


def test_gains_are_those_over_what_the_policies_win_themselves_in_the_same_deals():
    own = np.array([[1.0, -1.0], [0.0, 0.0], [2.0, -2.0], [1.0, -1.0]])
    responses = own + np.array([[1.0, 3.0], [1.0, 1.0], [1.0, 3.0], [1.0, 1.0]])
    found = measure_gains(own, responses)
    np.testing.assert_allclose(found.gains, [1.0, 2.0])
    # Deals differ a lot, but what is gained in them does not: intervals are of differences.
    np.testing.assert_allclose(found.intervals[0], [1.0, 1.0])
    half = 1.96 * np.std([3.0, 1.0, 3.0, 1.0], ddof=1) / 2
    np.testing.assert_allclose(found.intervals[1], [2.0 - half, 2.0 + half])
    assert found.nash_conv == 3.0
    np.testing.assert_allclose(found.nash_conv_interval, (3.0 - half, 3.0 + half))
    with pytest.raises(ValueError, match="two deals"):
        measure_gains(own[:1], responses[:1])


def test_a_response_that_is_worse_than_the_policies_gains_nothing():
    """The policies are a response to themselves: no gain is negative, and none makes another side's gain smaller."""
    worse = np.array([-1.0, -3.0, -2.0, -2.0])
    better = np.array([1.0, 3.0, 1.0, 3.0])
    found = measure_gains(np.zeros((4, 2)), np.stack((worse, better), axis=1))
    np.testing.assert_array_equal(found.gains, [0.0, 2.0])
    assert found.nash_conv == 2.0
    half = 1.96 * np.std(better, ddof=1) / 2
    np.testing.assert_allclose(found.intervals, [[0.0, 0.0], [2.0 - half, 2.0 + half]])
    np.testing.assert_allclose(found.nash_conv_interval, (2.0 - half, 2.0 + half))
    # One that may gain after all: the upper end of the sum leaves room for that.
    doubtful = np.array([-3.0, 2.0, -2.0, 2.0])
    unsure = measure_gains(np.zeros((4, 2)), np.stack((doubtful, better), axis=1))
    room = -0.25 + 1.96 * np.std(doubtful, ddof=1) / 2
    np.testing.assert_allclose(unsure.nash_conv_interval, (2.0 - half, 2.0 + half + room))


def test_the_learner_sits_on_its_side_in_every_episode():
    drawn = FixedOpponents({}, 1, 3).draw(torch.arange(4), torch.arange(4))
    assert drawn.tolist() == [[0, LEARNER, 0]] * 4


def bound(marl, run, *argv):
    done = marl("exploitability", run, "--json", *argv, *QUICK)
    assert (done.code, done.stderr) == (0, ""), done
    return json.loads(done.stdout)


def test_the_bound_comes_close_to_what_is_exact(marl, tmp_path):
    """Against a policy with a memory, by a learner without."""
    run = tmp_path / "kuhn"
    argv = ("--recipe", "none", "--steps", 64, "--num-envs", 16, "--algorithm.rollout-length", 4)
    argv += ("--algorithm.recurrent",)
    assert marl("train", "ippo", KUHN, *argv, "--evaluation-episodes", 0, "--out", run).code == 0
    exact = json.loads(marl("exploitability", run, "--json").stdout)["exploitability"]
    found = bound(marl, run, "--best-response", 4000, "--response.algorithm", "iql", "--response.backend", "batched")
    low, high = found["exploitability_interval"]
    assert low < exact
    assert high > 0.6 * exact
    assert found["exploitability"] == pytest.approx(sum(found["gains"].values()) / 2)
    assert found["lower_bound"]


def test_games_without_a_tree_have_a_bound_too(marl, tmp_path):
    """Who always plays the same in rock-paper-scissors loses to a best response from either side: NashConv 2."""
    run = tmp_path / "rps"
    argv = ("--env-kwargs", '{"observe": "constant"}', "--steps", 256, "--num-envs", 16, "--evaluation-episodes", 0)
    assert marl("train", "ippo", RPS, *argv, "--algorithm.rollout-length", 8, "--out", run).code == 0
    found = bound(marl, run, "--best-response", 4000, "--greedy", "--response.algorithm", "iql")
    assert found["nash_conv"] == pytest.approx(2.0)
    assert found["exploitability"] == pytest.approx(1.0)
    text = marl("exploitability", run, "--best-response", 200, "--greedy", *QUICK).stdout
    assert "exploitability at least" in text
    assert "as agent_0" in text


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (("--best-response", 0), "best-response"),
        (("--best-response", 100, "--average"), "leave out --best-response"),
        (("--best-response", 100, "--response.algorithm", "ipo"), "did you mean"),
        (("--best-response", 100, "--response.games", 1), "games"),
        (("--best-response", 100, "--response.seed", -1), "seed"),
        (("--best-response", 100, "--response.algorithm", "maddpg"), "turn-based"),
    ],
)
def test_what_cannot_be_learned_is_refused_in_one_line(refused, tictactoe_run, argv, says):
    assert says in refused("exploitability", tictactoe_run, *argv)
