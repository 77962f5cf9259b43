"""Matchmaking: probabilities of opponents, and draws by them."""

import math

import numpy as np
import pytest

from marl.errors import InputError
from marl.league.matchmaking import (
    PFSP,
    Latest,
    QualityScores,
    UniformPast,
    Window,
    choose_opponents,
    pfsp_probabilities,
    quality_probabilities,
)
from marl.random_streams import Stream
from marl.ratings.payoffs import DRAW, LOSS, WIN, PayoffTable

SNAPSHOTS = ("s0", "s1", "s2", "me")


def table(**results):
    """Games of "me" in alternating seats: s0="WWL" are two wins and a loss against s0."""
    payoffs = PayoffTable(SNAPSHOTS)
    for name, outcomes in results.items():
        for k, letter in enumerate(outcomes):
            outcome = {"W": WIN, "D": DRAW, "L": LOSS}[letter]
            if k % 2:
                payoffs.add(payoffs.index(name), payoffs.index("me"), 2 - outcome)
            else:
                payoffs.add(payoffs.index("me"), payoffs.index(name), outcome)
    return payoffs


@pytest.mark.parametrize(
    "maker", [Latest(), UniformPast(), Window(), PFSP(), PFSP(weighting="variance"), QualityScores()]
)
@pytest.mark.parametrize("number", [1, 2, 4])
def test_probabilities_are_probabilities(maker, number):
    p = maker.probabilities(table(s0="WWD", s1="L"), "me", SNAPSHOTS[-number:])
    assert p.shape == (number,)
    assert p.min() >= 0
    assert p.sum() == pytest.approx(1.0)


@pytest.mark.parametrize("maker", [Latest(), UniformPast(), Window(), PFSP(), QualityScores()])
def test_nobody_to_play_against_is_refused(maker):
    with pytest.raises(ValueError, match="candidate"):
        maker.probabilities(table(), "me", ())


def test_latest_and_uniform_are_what_they_say():
    assert Latest().probabilities(table(), "me", SNAPSHOTS).tolist() == [0, 0, 0, 1]
    assert UniformPast().probabilities(table(), "me", SNAPSHOTS).tolist() == [0.25] * 4


def test_window_draws_from_the_last_snapshots_and_the_latest():
    window = Window(window=2, play_against_latest_model_ratio=0.6)
    np.testing.assert_allclose(window.probabilities(table(), "me", SNAPSHOTS), (0, 0.2, 0.2, 0.6))
    np.testing.assert_allclose(window.probabilities(table(), "me", SNAPSHOTS[2:]), (0.4, 0.6))
    assert window.probabilities(table(), "me", ("me",)).tolist() == [1.0]


def test_hard_pfsp_prefers_those_it_loses_to():
    # Scores 3/4, 1/2, 1/4: weights 1/16, 4/16, 9/16.
    payoffs = table(s0="WWWL", s1="WDLD", s2="LLWL")
    p = PFSP(prior_games=0).probabilities(payoffs, "me", SNAPSHOTS[:3])
    np.testing.assert_allclose(p, np.array([1, 4, 9]) / 14)


def test_variance_pfsp_prefers_equals():
    payoffs = table(s0="WWWL", s1="WDLD", s2="LLWL")
    p = PFSP(weighting="variance", prior_games=0).probabilities(payoffs, "me", SNAPSHOTS[:3])
    np.testing.assert_allclose(p, np.array([3, 4, 3]) / 10)


def test_pfsp_is_uniform_where_everybody_is_beaten():
    for weighting in ("hard", "variance"):
        np.testing.assert_allclose(pfsp_probabilities(np.ones(4), weighting=weighting), 0.25)


def test_one_early_win_does_not_exclude_an_opponent():
    assert PFSP().probabilities(table(s0="W"), "me", SNAPSHOTS[:3])[0] > 0.05


def test_quality_falls_with_wins_as_in_openai_five():
    scores = QualityScores(learning_rate=0.3, latest_ratio=0.8)
    np.testing.assert_allclose(scores.probabilities(table(), "me", SNAPSHOTS), (*[0.2 / 3] * 3, 0.8))
    scores.update(table(s0="WWL", s1="LLDD"), "me", SNAPSHOTS)
    # Two wins at p = 1/3 of N = 3: the score falls by 0.3 each.
    assert [scores.score(name) for name in SNAPSHOTS[:3]] == pytest.approx([-0.6, 0.0, 0.0])
    shares = np.array([math.exp(-0.6), 1, 1]) / (2 + math.exp(-0.6))
    np.testing.assert_allclose(scores.probabilities(table(), "me", SNAPSHOTS), (*0.2 * shares, 0.8))
    np.testing.assert_allclose(quality_probabilities(np.array([-0.6, 0, 0])), shares)


def test_a_new_snapshot_starts_at_the_highest_quality():
    scores = QualityScores(learning_rate=1.0)
    scores.update(table(s0="W", s1="WW"), "me", ("s0", "s1", "me"))
    assert scores.score("s2") == scores.score("s0") == pytest.approx(-1.0)


def test_quality_comes_back_from_its_state():
    scores, again = QualityScores(), QualityScores()
    scores.update(table(s0="WWL", s2="W"), "me", SNAPSHOTS)
    again.load_state_dict(scores.state_dict())
    assert [again.score(name) for name in SNAPSHOTS] == [scores.score(name) for name in SNAPSHOTS]
    again.load_state_dict(QualityScores().state_dict())
    assert again.score("s0") == 0.0


def draw_opponents(probabilities, *, seed, first_match, matches, purpose="matchmaking"):
    words = Stream(seed, purpose, first_env=first_match, num_envs=matches).words(0, 2)[0].numpy()
    return choose_opponents(probabilities, words)


def test_draws_do_not_depend_on_how_matches_are_spread_over_ranks():
    p = np.array([0.1, 0.0, 0.4, 0.5])
    whole = draw_opponents(p, seed=3, first_match=100, matches=50)
    parts = [draw_opponents(p, seed=3, first_match=100 + start, matches=10) for start in range(0, 50, 10)]
    assert whole.tolist() == np.concatenate(parts).tolist()
    assert whole.tolist() != draw_opponents(p, seed=4, first_match=100, matches=50).tolist()
    assert whole.tolist() != draw_opponents(p, seed=3, first_match=100, matches=50, purpose="other").tolist()


def test_draws_follow_their_probabilities():
    p = np.array([0.0, 0.1, 0.0, 0.6, 0.3, 0.0])
    drawn = draw_opponents(p, seed=0, first_match=0, matches=20_000)
    shares = np.bincount(drawn, minlength=6) / 20_000
    np.testing.assert_allclose(shares, p, atol=4 * math.sqrt(0.25 / 20_000))
    assert (shares[p == 0] == 0).all()


@pytest.mark.parametrize("p", [[0.5, 0.6], [-0.1, 1.1], [], [[1.0]]])
def test_what_is_not_a_distribution_is_refused(p):
    with pytest.raises(ValueError, match="sum to 1"):
        draw_opponents(np.array(p), seed=0, first_match=0, matches=1)


def test_bad_choices_are_input_errors():
    with pytest.raises(InputError, match="window"):
        Window(window=0)
    with pytest.raises(InputError, match="between 0 and 1"):
        Window(play_against_latest_model_ratio=1.5)
    with pytest.raises(InputError, match="hard or variance"):
        PFSP(weighting="soft")
    with pytest.raises(InputError, match="latest_ratio"):
        QualityScores(latest_ratio=2.0)
