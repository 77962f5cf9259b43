import math

import numpy as np
import pytest

from marl.ratings.alpha_rank import alpha_rank

ROCK_PAPER_SCISSORS = np.array([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]])
THIRDS = np.full(3, 1 / 3)


def han_2013():
    """Propose, cooperate, defect, fake and free-ride (Han, Pereira, Santos, Lenaerts 2013, Sci. Rep. 3:2695)."""
    r, t, p, s, delta, eps = 1.0, 2.0, 0.0, -1.0, 4.0, 0.25
    return np.array(
        [
            [r - eps / 2, r - eps, 0, s + delta - eps, r - eps],
            [r, r, s, s, s],
            [0, t, p, p, p],
            [t - delta, t, p, p, p],
            [r, t, p, p, p],
        ]
    )


class TestAlphaRank:
    def test_five_strategies_of_han_2013(self):
        # OpenSpiel's alpharank_test.py prints these numbers.
        result = alpha_rank(han_2013(), alpha=0.1, population=20)
        expected = (0.40966787, 0.07959841, 0.20506998, 0.08505983, 0.2206039)
        np.testing.assert_allclose(result.distribution, expected, atol=1e-6)
        assert result.order.tolist() == [0, 4, 2, 3, 1]

    @pytest.mark.parametrize("alpha", [0.0, 0.1, 10.0, 1e6])
    def test_rock_paper_scissors_gives_thirds_in_one_population(self, alpha):
        np.testing.assert_allclose(alpha_rank(ROCK_PAPER_SCISSORS, alpha=alpha).distribution, THIRDS, atol=1e-12)

    @pytest.mark.parametrize("alpha", [0.01, 0.3])
    def test_agrees_with_the_formulas_written_out(self, alpha):
        payoff, m = np.random.default_rng(0).normal(size=(4, 4)), 7
        chain = np.zeros((4, 4))
        for r in range(4):
            for t in range(4):
                if r != t:
                    terms, product = 1.0, 1.0
                    for k in range(1, m):
                        mutant = ((k - 1) * payoff[t, t] + (m - k) * payoff[t, r]) / (m - 1)
                        resident = (k * payoff[r, t] + (m - k - 1) * payoff[r, r]) / (m - 1)
                        product *= math.exp(-alpha * (mutant - resident))
                        terms += product
                    chain[r, t] = 1 / terms / 3
            chain[r, r] = 1 - chain[r].sum()
        stationary = np.linalg.matrix_power(chain, 10**6)[0]
        np.testing.assert_allclose(alpha_rank(payoff, alpha=alpha, population=m).distribution, stationary, atol=1e-9)

    def test_battle_of_the_sexes_rests_on_its_two_pure_equilibria(self):
        row = np.array([[3.0, 0.0], [0.0, 2.0]])
        column = np.array([[2.0, 0.0], [0.0, 3.0]])
        result = alpha_rank([row, column], alpha=100.0)
        np.testing.assert_allclose(result.distribution, [[0.5, 0.0], [0.0, 0.5]], atol=1e-9)
        np.testing.assert_allclose(result.marginals[0], 0.5, atol=1e-9)

    @pytest.mark.parametrize("alpha", [1.0, 1e3, 1e8])
    def test_a_dominant_profile_takes_all_however_large_alpha_is(self, alpha):
        prisoners_dilemma = np.array([[-1.0, -3.0], [0.0, -2.0]])
        result = alpha_rank([prisoners_dilemma, prisoners_dilemma.T], alpha=alpha)
        assert result.distribution[1, 1] > 0.999
        assert result.order[0] == 3

    def test_three_populations_that_coordinate(self):
        payoff = np.zeros((2, 2, 2))
        payoff[0, 0, 0] = payoff[1, 1, 1] = 1.0
        result = alpha_rank([payoff] * 3, alpha=50.0)
        np.testing.assert_allclose(result.distribution[[0, 1], [0, 1], [0, 1]], 0.5, atol=1e-9)

    def test_matching_pennies_is_uniform_over_profiles(self):
        payoff = np.array([[1.0, -1.0], [-1.0, 1.0]])
        np.testing.assert_allclose(alpha_rank([payoff, -payoff], alpha=100.0).distribution, 0.25, atol=1e-12)

    def test_one_strategy_is_everything(self):
        assert alpha_rank(np.array([[2.0]])).distribution.tolist() == [1.0]
        assert alpha_rank([np.array([[2.0]]), np.array([[1.0]])]).distribution.tolist() == [[1.0]]

    @pytest.mark.parametrize(("alpha", "population"), [(-1.0, 50), (math.inf, 50), (1.0, 1)])
    def test_parameters_out_of_range_are_refused(self, alpha, population):
        with pytest.raises(ValueError, match="alpha must be"):
            alpha_rank(ROCK_PAPER_SCISSORS, alpha=alpha, population=population)

    def test_shapes_that_do_not_fit_are_refused(self):
        with pytest.raises(ValueError, match="square"):
            alpha_rank(np.zeros((2, 3)))
        with pytest.raises(ValueError, match="payoff arrays"):
            alpha_rank([np.zeros((2, 3)), np.zeros((3, 2))])
