import math

import numpy as np
import pytest
from scipy.optimize import minimize
from simulated_games import NAMES, TRUTH, games_of, outcome_probabilities, simulate

from marl.errors import InputError
from marl.ratings.elo import EloConfig, elo_ratings, fit_elo
from marl.ratings.sprt import ELO_SCALE


def coverage(tournaments, seed):
    inside = []
    for counts in simulate(np.random.default_rng(seed), TRUTH, tournaments=tournaments):
        intervals = elo_ratings(counts, NAMES).intervals
        inside.append((intervals[:, 0] <= TRUTH) & (intervals[:, 1] >= TRUTH))
    return np.array(inside)


class TestElo:
    @pytest.mark.parametrize("seed", range(5))
    def test_agrees_with_an_independent_maximum_likelihood_fit_to_a_tenth(self, seed):
        counts = simulate(np.random.default_rng(seed), TRUTH)[0]

        def loss(theta):
            p = outcome_probabilities(np.append(theta[:6], -theta[:6].sum()) * 100, theta[6] * 100, math.exp(theta[7]))
            return -(counts * np.log(p)).sum()

        best = minimize(loss, np.zeros(8), method="Nelder-Mead", options={"maxiter": 200_000, "maxfev": 200_000})
        best = minimize(loss, best.x, method="BFGS", options={"gtol": 1e-4})
        ours = elo_ratings(counts, NAMES)
        np.testing.assert_allclose(ours.ratings[:6], best.x[:6] * 100, atol=0.1)
        assert ours.seat_advantage == pytest.approx(best.x[6] * 100, abs=0.1)
        assert ours.draw_parameter == pytest.approx(math.exp(best.x[7]), rel=1e-3)

    def test_does_not_depend_on_the_order_of_games(self):
        generator = np.random.default_rng(0)
        counts = simulate(generator, TRUTH)[0]
        first = elo_ratings(games_of(counts, NAMES).counts(), NAMES)
        for _ in range(5):
            shuffled = elo_ratings(games_of(counts, NAMES, generator).counts(), NAMES)
            assert (shuffled.ratings == first.ratings).all()
            assert (shuffled.intervals == first.intervals).all()

    def test_does_not_depend_on_the_order_of_players(self):
        counts = simulate(np.random.default_rng(0), TRUTH)[0]
        order = np.random.default_rng(1).permutation(7)
        there = elo_ratings(counts[order][:, order], [NAMES[i] for i in order])
        here = elo_ratings(counts, NAMES)
        np.testing.assert_allclose(there.ratings, here.ratings[order], atol=1e-6)
        np.testing.assert_allclose(there.intervals, here.intervals[order], atol=1e-6)

    def test_two_players_without_draws_are_apart_by_their_log_odds(self):
        counts = np.zeros((2, 2, 3))
        counts[0, 1] = (20, 0, 30)
        counts[1, 0] = (45, 0, 5)
        # The odds in either seat: 3/2 and 9; in the mean of logarithms x ± seat.
        result = elo_ratings(counts, "ab")
        difference = ELO_SCALE * (math.log(1.5) + math.log(9)) / 2
        assert result.ratings[0] - result.ratings[1] == pytest.approx(difference, abs=0.1)
        assert result.seat_advantage == pytest.approx(ELO_SCALE * (math.log(1.5) - math.log(9)) / 2, abs=0.1)
        assert result.draw_parameter == 0.0

    def test_400_points_are_odds_of_ten(self):
        counts = np.zeros((2, 2, 3))
        counts[0, 1] = counts[1, 0][::-1] = (100, 0, 1000)
        counts[1, 0] = (1000, 0, 100)
        result = elo_ratings(counts, "ab", EloConfig(anchor="b", anchor_rating=1500.0))
        np.testing.assert_allclose(result.ratings, (1900.0, 1500.0), atol=0.1)
        assert result.expected_score("a", "b") == pytest.approx(10 / 11, abs=1e-4)

    def test_expected_points_equal_achieved_points(self):
        counts = simulate(np.random.default_rng(3), TRUTH)[0]
        result = elo_ratings(counts, NAMES, EloConfig(prior_deviation=1e6))
        games = counts.sum(-1)
        score = np.array([[result.expected_score(a, b) for b in NAMES] for a in NAMES])
        achieved = counts @ (0, 0.5, 1)
        points = achieved.sum(1) + (games - achieved).sum(0)
        expected = (games * score).sum(1) + (games * (1 - score)).sum(0)
        np.testing.assert_allclose(points, expected, atol=1e-6)

    def test_information_is_the_second_derivative_of_the_likelihood(self):
        counts = simulate(np.random.default_rng(4), TRUTH[:3] / 2)[0]
        fit = fit_elo(counts[None], EloConfig(prior_deviation=1e6))
        at = fit.parameters[0]

        def loss(theta):
            p = outcome_probabilities(theta[:3] * ELO_SCALE, theta[3] * ELO_SCALE, math.exp(theta[4]))
            return -(counts * np.log(p)).sum()

        h = 1e-4
        numeric = np.empty((5, 5))
        for i, u in enumerate(np.eye(5) * h):
            for j, v in enumerate(np.eye(5) * h):
                numeric[i, j] = (loss(at + u + v) - loss(at + u - v) - loss(at - u + v) + loss(at - u - v)) / (
                    4 * h * h
                )
        numeric[:3, :3] += 1.0  # the pinned mean
        np.testing.assert_allclose(fit.information[0], numeric, atol=1e-3)

    def test_the_mean_is_the_anchor_by_default(self):
        counts = simulate(np.random.default_rng(5), TRUTH)[0]
        assert elo_ratings(counts, NAMES).ratings.mean() == pytest.approx(0.0, abs=1e-9)

    def test_a_named_anchor_has_no_uncertainty_and_shifts_the_others(self):
        counts = simulate(np.random.default_rng(5), TRUTH)[0]
        free = elo_ratings(counts, NAMES)
        anchored = elo_ratings(counts, NAMES, EloConfig(anchor="c", anchor_rating=1000.0))
        np.testing.assert_allclose(anchored.ratings - 1000.0, free.ratings - free.ratings[2], atol=1e-9)
        np.testing.assert_allclose(anchored.intervals[2], 1000.0, atol=1e-3)
        np.testing.assert_allclose(anchored.superiority, free.superiority, atol=1e-9)

    def test_an_unbeaten_player_gets_a_finite_rating_and_leaves_others_alone(self):
        counts = np.zeros((3, 3, 3))
        counts[0, 1] = counts[0, 2] = (0, 0, 50)
        counts[1, 0] = counts[2, 0] = (50, 0, 0)
        counts[1, 2] = counts[2, 1] = (25, 0, 25)
        result = elo_ratings(counts, "abc", EloConfig(anchor="b"))
        # Half a win against 200.5 losses, as by Jeffreys' prior.
        assert result.ratings[0] == pytest.approx(ELO_SCALE * math.log(401), abs=5.0)
        assert result.ratings[2] == pytest.approx(0.0, abs=1e-6)
        assert result.intervals[0, 0] > 400
        assert result.superiority[0, 1] > 0.999
        assert abs(result.intervals[2]).max() < 100

    def test_a_seat_that_always_wins_gets_a_finite_advantage(self):
        counts = np.zeros((2, 2, 3))
        counts[0, 1] = counts[1, 0] = (0, 0, 50)
        result = elo_ratings(counts, "ab")
        assert result.ratings[0] == pytest.approx(0.0, abs=1e-6)
        assert result.seat_advantage == pytest.approx(ELO_SCALE * math.log(201), abs=5.0)

    def test_nothing_but_draws_is_finite(self):
        counts = np.zeros((2, 2, 3))
        counts[0, 1] = counts[1, 0] = (0, 50, 0)
        result = elo_ratings(counts, "ab")
        np.testing.assert_allclose(result.ratings, 0.0, atol=1e-9)
        assert 50 < result.draw_parameter < 1000
        assert np.isfinite(result.intervals).all()

    def test_players_that_never_met_are_placed_by_the_prior_alone(self):
        counts = np.zeros((4, 4, 3))
        counts[0, 1] = counts[1, 0] = (10, 5, 12)
        counts[2, 3] = counts[3, 2] = (7, 7, 7)
        result = elo_ratings(counts, "abcd")
        assert result.ratings[:2].mean() == pytest.approx(result.ratings[2:].mean(), abs=1e-6)
        width = result.intervals[:, 1] - result.intervals[:, 0]
        assert width.min() > 5000
        assert result.superiority[0, 2] == pytest.approx(0.5, abs=0.01)

    def test_nobody_played_yet(self):
        result = elo_ratings(np.zeros((3, 3, 3)), "abc")
        np.testing.assert_allclose(result.ratings, 0.0)
        np.testing.assert_allclose(result.superiority, 0.5)
        assert result.games.tolist() == [0, 0, 0]

    def test_games_against_oneself_say_nothing(self):
        counts = simulate(np.random.default_rng(6), TRUTH)[0]
        with_mirror = counts.copy()
        with_mirror[2, 2] = (5, 1, 90)
        assert (elo_ratings(with_mirror, NAMES).ratings == elo_ratings(counts, NAMES).ratings).all()

    def test_without_seat_advantage_none_is_estimated(self):
        counts = simulate(np.random.default_rng(7), TRUTH)[0]
        result = elo_ratings(counts, NAMES, EloConfig(seat_advantage=False))
        assert result.seat_advantage == 0.0
        assert result.seat_interval == (0.0, 0.0)

    def test_extreme_results_converge(self):
        generator = np.random.default_rng(8)
        for _ in range(50):
            counts = generator.integers(0, 2, (5, 5, 3)) * generator.integers(0, 10**6, (5, 5, 3))
            assert np.isfinite(elo_ratings(counts, "abcde").ratings).all()

    def test_likelihood_of_superiority_is_complementary(self):
        table = elo_ratings(simulate(np.random.default_rng(9), TRUTH)[0], NAMES).superiority
        np.testing.assert_allclose(table + table.T, 1.0, atol=1e-12)
        assert table[6, 0] > 0.999

    def test_likelihood_of_superiority_is_calibrated(self):
        # Of the pairs in which one is said to be ahead with probability p, it is ahead in a share p.
        generator = np.random.default_rng(10)
        said, was = [], []
        for _ in range(300):
            truth = generator.normal(0, 60, 4)
            table = elo_ratings(simulate(generator, truth)[0], "abcd").superiority
            said.append(table[np.triu_indices(4, 1)])
            was.append((truth[:, None] > truth)[np.triu_indices(4, 1)])
        said, was = np.concatenate(said), np.concatenate(was)
        sure = np.abs(said - 0.5) > 0.4
        assert np.abs((said > 0.5) == was)[sure].mean() > 0.93

    def test_intervals_cover_the_truth(self):
        # 300 tournaments of 7 players; the shares of a tournament's players are nearly independent.
        assert abs(coverage(300, seed=0).mean() - 0.95) < 4 * math.sqrt(0.95 * 0.05 / (300 * 6))

    @pytest.mark.slow
    def test_intervals_cover_the_truth_in_94_to_96_percent_of_2000_tournaments(self):
        inside = coverage(2000, seed=1)
        assert 0.94 <= inside.mean() <= 0.96
        assert (np.abs(inside.mean(0) - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 2000)).all()

    def test_unknown_anchor_is_an_input_error(self):
        with pytest.raises(InputError, match="anchor z is not a player"):
            elo_ratings(np.zeros((2, 2, 3)), "ab", EloConfig(anchor="z"))

    def test_wrong_shapes_are_refused(self):
        with pytest.raises(ValueError, match="shape"):
            elo_ratings(np.zeros((2, 3, 3)), "ab")
