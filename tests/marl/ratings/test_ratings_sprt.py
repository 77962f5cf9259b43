import math

import numpy as np
import pytest
from scipy.optimize import minimize
from simulated_games import outcome_probabilities

from marl.errors import InputError
from marl.ratings.sprt import SPRTConfig, expected_score, sprt, sprt_llr


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
