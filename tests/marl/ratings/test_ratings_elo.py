import math

import numpy as np
import pytest
from scipy.optimize import minimize

from marl.errors import InputError
from marl.ratings.bootstrap import bootstrap_elo
from marl.ratings.elo import EloConfig, elo_ratings, fit_elo
from marl.ratings.payoffs import Games
from marl.ratings.plackett_luce import RankedGame, plackett_luce
from marl.ratings.sprt import ELO_SCALE, SPRTConfig, expected_score, sprt, sprt_llr

TRUTH = np.array([-250.0, -100.0, -50.0, 0.0, 50.0, 100.0, 250.0])
NAMES = tuple("abcdefg")


def outcome_probabilities(ratings, seat, nu):
    """Davidson's model, written as in the paper: pi_i gamma : nu sqrt(pi_i pi_j gamma) : pi_j."""
    strength = 10 ** (np.asarray(ratings) / 400)
    win = np.broadcast_to(strength[:, None] * 10 ** (seat / 400), (len(strength),) * 2)
    loss = np.broadcast_to(strength[None, :], win.shape)
    weights = np.stack((loss, nu * np.sqrt(win * loss), win), axis=-1)
    return weights / weights.sum(-1, keepdims=True)


def simulate(generator, ratings, *, seat=30.0, nu=0.8, games=10, tournaments=1):
    p = outcome_probabilities(ratings, seat, nu)
    counts = generator.multinomial(games, p, size=(tournaments, *p.shape[:2]))
    counts[:, np.arange(len(p)), np.arange(len(p))] = 0
    return counts


def games_of(counts, names, generator=None):
    """One game a row, each in a pair of its own, shuffled if a generator is given."""
    i, j, o = (np.repeat(index, counts[counts > 0]) for index in np.nonzero(counts))
    order = generator.permutation(len(i)) if generator is not None else np.arange(len(i))
    return Games(players=names, first=i[order], second=j[order], outcome=o[order], pair=order.astype(np.int64))


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


class TestBootstrap:
    @staticmethod
    def paired(generator, *, correlation, pairs=60):
        """Pairs of games between two equal players; with the given probability the second repeats the first."""
        first = generator.integers(0, 3, pairs)
        second = np.where(generator.random(pairs) < correlation, first, generator.integers(0, 3, pairs))
        rows = [("a", "b", o / 2, k) for k, o in enumerate(first)] + [
            ("b", "a", 1 - o / 2, k) for k, o in enumerate(second)
        ]
        return Games.from_rows(rows)

    def test_agrees_with_fisher_where_games_are_independent(self):
        generator = np.random.default_rng(0)
        games = games_of(simulate(generator, TRUTH, games=40)[0], NAMES)
        fisher = elo_ratings(games.counts(), NAMES)
        bootstrap = bootstrap_elo(games, resamples=2000)
        width = fisher.intervals[:, 1] - fisher.intervals[:, 0]
        np.testing.assert_allclose(bootstrap.intervals[:, 1] - bootstrap.intervals[:, 0], width, rtol=0.15)
        np.testing.assert_allclose(bootstrap.samples.mean(0), fisher.ratings, atol=8.0)
        np.testing.assert_allclose(bootstrap.superiority, fisher.superiority, atol=0.06)

    def test_is_wider_where_pairs_repeat_themselves(self):
        games = self.paired(np.random.default_rng(1), correlation=1.0)
        fisher = elo_ratings(games.counts(), games.players).intervals
        paired = bootstrap_elo(games).intervals
        # Perfectly repeated games carry half the information.
        ratio = (paired[0, 1] - paired[0, 0]) / (fisher[0, 1] - fisher[0, 0])
        assert ratio == pytest.approx(math.sqrt(2), rel=0.15)

    def test_depends_on_the_seed_and_not_on_the_order_of_games(self):
        games = self.paired(np.random.default_rng(2), correlation=0.5)
        order = np.random.default_rng(3).permutation(len(games.pair))
        shuffled = Games(
            players=games.players,
            first=games.first[order],
            second=games.second[order],
            outcome=games.outcome[order],
            pair=games.pair[order],
        )
        one, other = bootstrap_elo(games, resamples=50, seed=7), bootstrap_elo(shuffled, resamples=50, seed=7)
        assert (one.samples == other.samples).all()
        assert (bootstrap_elo(games, resamples=50, seed=8).samples != one.samples).any()

    def test_covers_the_truth_where_pairs_repeat_themselves(self):
        generator = np.random.default_rng(4)
        inside = 0
        for number in range(150):
            low, high = bootstrap_elo(
                self.paired(generator, correlation=0.6, pairs=100), resamples=300, seed=number
            ).intervals[0]
            inside += low <= 0.0 <= high
        assert inside / 150 > 0.95 - 4 * math.sqrt(0.95 * 0.05 / 150)


def pair_probabilities(elo, nu, seat):
    """Distribution over pair scores 0..4 of Davidson players whose expected score is the logistic one of ``elo``."""
    low, high = -4000.0, 4000.0
    for _ in range(80):
        middle = (low + high) / 2
        p = outcome_probabilities((middle, 0.0), seat, nu)
        score = ((p[0, 1] @ (0, 0.5, 1)) + (p[1, 0] @ (1, 0.5, 0))) / 2
        low, high = (middle, high) if score < expected_score(elo) else (low, middle)
    return np.convolve(p[0, 1], p[1, 0][::-1])


def sprt_error(config, elo, *, wrong, nu=0.8, seat=20.0, simulations=10_000, seed=0):
    """Share of simulated tests that accept the wrong hypothesis."""
    generator = np.random.default_rng(seed)
    p = pair_probabilities(elo, nu, seat)
    counts = np.zeros((simulations, 5))
    lower, upper = config.bounds
    errors = 0
    for _ in range(100_000):
        counts[np.arange(len(counts)), generator.choice(5, p=p, size=len(counts))] += 1
        llr = sprt_llr(counts, config.elo0, config.elo1)
        errors += int(((llr >= upper) if wrong == "elo1" else (llr <= lower)).sum())
        counts = counts[(llr > lower) & (llr < upper)]
        if not len(counts):
            return errors / simulations
    raise AssertionError("the test does not end")


class TestSPRT:
    @pytest.mark.parametrize(("truth", "wrong"), [(0.0, "elo1"), (100.0, "elo0")])
    def test_errors_are_at_most_five_and_a_half_percent_in_10000_simulations(self, truth, wrong):
        assert sprt_error(SPRTConfig(elo0=0.0, elo1=100.0), truth, wrong=wrong) <= 0.055

    @pytest.mark.slow
    @pytest.mark.parametrize("nu", [0.0, 0.8, 5.0])
    @pytest.mark.parametrize(("elo0", "elo1"), [(0.0, 50.0), (-30.0, 30.0), (0.0, 200.0)])
    def test_errors_hold_for_other_hypotheses_and_draw_rates(self, elo0, elo1, nu):
        config = SPRTConfig(elo0=elo0, elo1=elo1)
        assert sprt_error(config, elo0, wrong="elo1", nu=nu) <= 0.055
        assert sprt_error(config, elo1, wrong="elo0", nu=nu) <= 0.055

    @pytest.mark.parametrize("counts", [(10, 30, 25), (3, 40, 120, 60, 7)])
    def test_ratio_agrees_with_a_general_constrained_optimiser(self, counts):
        counts = np.array(counts, dtype=float)
        values = np.linspace(0, 1, len(counts))

        def best(elo):
            result = minimize(
                lambda p: -(counts * np.log(p)).sum() / counts.sum(),
                np.full(len(counts), 1 / len(counts)),
                bounds=[(1e-9, 1)] * len(counts),
                constraints=[
                    {"type": "eq", "fun": lambda p: p.sum() - 1},
                    {"type": "eq", "fun": lambda p: p @ values - expected_score(elo)},
                ],
                options={"ftol": 1e-14, "maxiter": 1000},
            )
            return -result.fun * counts.sum()

        assert sprt_llr(counts, -10.0, 40.0) == pytest.approx(best(40.0) - best(-10.0), abs=1e-4)

    def test_ratio_is_below_the_limit_where_fishtest_says_so(self):
        # fishtest issue 612: 608 losses, 12530 draws, 648 wins; the LLR of [0, 5] is clamped at -2.94.
        assert sprt_llr((608, 12530, 648), 0.0, 5.0) < -2.94

    def test_bounds_are_those_of_wald(self):
        assert SPRTConfig(elo0=0, elo1=5).bounds == pytest.approx((-math.log(19), math.log(19)))

    def test_ratio_changes_sign_when_hypotheses_and_results_are_mirrored(self):
        counts = np.array([4.0, 20.0, 50.0, 30.0, 9.0])
        assert sprt_llr(counts[::-1], -40.0, 10.0) == pytest.approx(-sprt_llr(counts, -10.0, 40.0))

    def test_stops_at_the_first_limit_and_ignores_what_comes_later(self):
        scores = np.array([3, 2, 4, 3] * 30 + [0] * 200)
        result = sprt(scores, SPRTConfig(elo0=0.0, elo1=50.0))
        assert result.decision == "elo1"
        assert result.used < 120
        assert sprt(scores[: result.used], SPRTConfig(elo0=0.0, elo1=50.0)) == result
        assert sprt(scores[: result.used - 1], SPRTConfig(elo0=0.0, elo1=50.0)).decision is None

    def test_accepts_the_null_hypothesis_against_a_weaker_player(self):
        assert sprt([1, 2, 0, 1] * 50, SPRTConfig(elo0=0.0, elo1=50.0)).decision == "elo0"

    def test_goes_on_without_games(self):
        result = sprt([], SPRTConfig(elo0=0.0, elo1=50.0))
        assert (result.decision, result.llr, result.used) == (None, 0.0, 0)

    def test_does_not_stop_after_a_few_one_sided_pairs(self):
        for score in range(5):
            assert sprt([score] * 3, SPRTConfig(elo0=0.0, elo1=50.0)).decision is None

    def test_hypotheses_in_the_wrong_order_are_an_input_error(self):
        with pytest.raises(InputError, match="ELO0 < ELO1"):
            SPRTConfig(elo0=5.0, elo1=0.0)


class TestPlackettLuce:
    GAMES = tuple(
        RankedGame(index=k, teams=(("a",), ("b",), ("c",)), ranks=ranks)
        for k, ranks in enumerate([(1, 2, 3), (1, 3, 2), (2, 1, 3), (1, 2, 2), (1, 2, 3)])
    )

    def test_first_game_follows_the_formulas_of_weng_and_lin(self):
        pytest.importorskip("openskill")
        result = plackett_luce([RankedGame(index=0, teams=(("a",), ("b",)), ranks=(1, 2))])
        # Algorithm 4 with mu = 25, sigma = 25/3, beta = 25/6, gamma = sigma/c, after openskill's tau = 25/300.
        variance = (25 / 3) ** 2 + (25 / 300) ** 2
        c = math.sqrt(2 * (variance + (25 / 6) ** 2))
        gain = variance / c * 0.5
        shrink = 1 - math.sqrt(variance) / c * variance / c**2 * 0.25
        np.testing.assert_allclose(result.mu, (25 + gain, 25 - gain), rtol=1e-9)
        np.testing.assert_allclose(result.sigma, math.sqrt(variance * shrink), rtol=1e-9)
        np.testing.assert_allclose(result.ordinal, result.mu - 3 * result.sigma)

    def test_better_places_make_better_ratings_whatever_the_order_of_arrival(self):
        pytest.importorskip("openskill")
        result = plackett_luce(self.GAMES)
        assert result.mu[0] > result.mu[1] > result.mu[2]
        again = plackett_luce(self.GAMES[::-1])
        assert (again.mu == result.mu).all()
        assert (again.sigma == result.sigma).all()

    def test_members_of_a_winning_team_gain(self):
        pytest.importorskip("openskill")
        result = plackett_luce([RankedGame(index=0, teams=(("a", "b"), ("c", "d", "e")), ranks=(1, 2))], "abcdef")
        assert result.mu[0] == result.mu[1] > 25.0 > result.mu[2] == result.mu[4]
        assert result.mu[5] == 25.0

    def test_missing_package_is_an_input_error(self, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "openskill.models", None)
        with pytest.raises(InputError, match="pip install"):
            plackett_luce(self.GAMES)

    def test_bad_games_are_input_errors(self):
        pytest.importorskip("openskill")
        with pytest.raises(InputError, match="two places"):
            RankedGame(index=0, teams=(("a",), ("a",)), ranks=(1, 2))
        with pytest.raises(InputError, match="two or more sides"):
            RankedGame(index=0, teams=(("a",),), ranks=(1,))
        with pytest.raises(InputError, match="number 0"):
            plackett_luce([self.GAMES[0], self.GAMES[0]])
        with pytest.raises(InputError, match="names c"):
            plackett_luce(self.GAMES, ["a", "b"])
