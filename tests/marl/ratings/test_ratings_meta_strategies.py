import math

import numpy as np
import pytest
from scipy.optimize import linprog

from marl.errors import InputError
from marl.ratings.alpha_rank import alpha_rank
from marl.ratings.meta_strategies import (
    alpha_rank_meta_strategy,
    nash_meta_strategy,
    project_to_simplex,
    projected_replicator_meta_strategy,
    replicator_step,
    uniform_meta_strategy,
)
from marl.ratings.nash import nash_averaging, zero_sum_nash

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


def random_games():
    generator = np.random.default_rng(0)
    for number in range(100):
        rows, columns = generator.integers(1, 9, 2)
        normal = generator.normal(size=(rows, columns))
        kind = number % 5
        if kind == 0:
            yield normal
        elif kind == 1:
            yield generator.integers(-2, 3, (rows, columns)).astype(float)
        elif kind == 2:
            yield normal[generator.integers(0, rows, rows)][:, generator.integers(0, columns, columns)]
        else:
            square = generator.integers(-1, 2, (rows, rows)) if kind == 3 else generator.normal(size=(rows, rows))
            yield (square - square.T).astype(float)


def entropy(p):
    p = p[p > 0]
    return float(-(p * np.log(p)).sum())


class TestZeroSumNash:
    def test_value_agrees_with_linear_programming_and_nobody_can_gain(self):
        for payoff in random_games():
            rows, columns = payoff.shape
            best = linprog(
                np.r_[np.zeros(rows), -1],
                A_ub=np.c_[-payoff.T, np.ones(columns)],
                b_ub=np.zeros(columns),
                A_eq=[np.r_[np.ones(rows), 0]],
                b_eq=[1],
                bounds=[(0, None)] * rows + [(None, None)],
            )
            result = zero_sum_nash(payoff)
            assert result.value == pytest.approx(-best.fun, abs=1e-9)
            assert (payoff @ result.column).max() - (result.row @ payoff).min() < 1e-9
            assert entropy(result.row) >= entropy(best.x[:rows]) - 1e-9

    @pytest.mark.parametrize("seed", range(6))
    def test_entropy_is_the_greatest_of_all_equilibria(self, seed):
        generator = np.random.default_rng(seed)
        # Rows 3 to 5 mix rows 0 to 2, so there are many equilibria, and no symmetry among them.
        core = np.vstack(
            (ROCK_PAPER_SCISSORS * (1, 2, 3), generator.dirichlet(np.ones(3), 3) @ ROCK_PAPER_SCISSORS * (1, 2, 3))
        )
        ours = zero_sum_nash(core)
        # All columns are played, so the equilibria are given by equations, and at the greatest entropy log(x) is a
        # combination of them (Lagrange), which makes it unique because the entropy is strictly concave.
        assert ours.column.min() > 0.01
        np.testing.assert_allclose(ours.row @ core, ours.value, atol=1e-12)
        conditions = np.column_stack((core, np.ones(6)))
        multipliers = np.linalg.lstsq(conditions, np.log(ours.row), rcond=None)[0]
        np.testing.assert_allclose(conditions @ multipliers, np.log(ours.row), atol=1e-9)

    def test_entropy_is_greatest_where_strategies_outside_the_support_set_a_limit(self):
        # Columns 0 and 1 are copies, and row 2 punishes more than 1/4 on column 0: so 1/4, 3/4 rather than halves.
        payoff = np.array([[0.0, 0.0], [0.0, 0.0], [3.0, -1.0]])
        np.testing.assert_allclose(zero_sum_nash(payoff).column, (0.25, 0.75), atol=1e-6)

    def test_small_games_have_their_textbook_solutions(self):
        matching_pennies = zero_sum_nash([[1, -1], [-1, 1]])
        np.testing.assert_allclose(matching_pennies.row, 0.5, atol=1e-12)
        # Saddle point, and 2 × 2 without one: value (ad - bc) / (a + d - b - c).
        assert zero_sum_nash([[3, 5], [1, 9]]).value == pytest.approx(3.0)
        assert zero_sum_nash([[1, -2], [-1, 1]]).value == pytest.approx(-0.2)
        assert zero_sum_nash([[7.0]]).value == 7.0

    def test_shift_and_scale_of_payoffs_do_not_matter(self):
        payoff = np.random.default_rng(1).normal(size=(4, 6))
        base, moved = zero_sum_nash(payoff), zero_sum_nash(1e6 * payoff + 3e5)
        np.testing.assert_allclose(moved.row, base.row, atol=1e-9)
        assert moved.value == pytest.approx(1e6 * base.value + 3e5)

    @pytest.mark.parametrize("noise", 10.0 ** -np.arange(2, 16))
    def test_payoffs_that_are_nearly_equal_still_give_an_equilibrium(self, noise):
        generator = np.random.default_rng(2)
        for _ in range(10):
            payoff = ROCK_PAPER_SCISSORS[generator.integers(0, 3, 6)][:, generator.integers(0, 3, 6)]
            payoff = payoff + noise * generator.normal(size=(6, 6))
            result = zero_sum_nash(payoff)
            assert (payoff @ result.column).max() - (result.row @ payoff).min() < 1e-8

    @pytest.mark.parametrize("payoff", [np.zeros((0, 2)), np.array([[np.nan, 0.0]]), np.zeros(3)])
    def test_bad_matrices_are_refused(self, payoff):
        with pytest.raises(ValueError, match="finite matrix"):
            zero_sum_nash(payoff)


class TestNashAveraging:
    def test_rock_paper_scissors_gives_thirds(self):
        result = nash_averaging(ROCK_PAPER_SCISSORS)
        np.testing.assert_allclose(result.mixture, THIRDS, atol=1e-12)
        np.testing.assert_allclose(result.ratings, 0.0, atol=1e-12)

    def test_copies_of_a_player_share_its_weight(self):
        # Balduzzi et al., Theorem 1 (P1): redundant copies change nothing else.
        envs = [0, 0, 0, 1, 2]
        result = nash_averaging(ROCK_PAPER_SCISSORS[envs][:, envs])
        np.testing.assert_allclose(result.mixture, (1 / 9, 1 / 9, 1 / 9, 1 / 3, 1 / 3), atol=1e-9)

    def test_a_dominated_player_has_no_weight_and_a_negative_rating(self):
        payoff = np.zeros((4, 4))
        payoff[:3, :3] = ROCK_PAPER_SCISSORS
        payoff[:3, 3], payoff[3, :3] = 0.5, -0.5
        result = nash_averaging(payoff)
        np.testing.assert_allclose(result.mixture, (*THIRDS, 0.0), atol=1e-12)
        np.testing.assert_allclose(result.ratings, (0, 0, 0, -0.5), atol=1e-12)

    def test_a_transitive_game_is_won_by_the_best(self):
        skill = np.array([0.0, 2.0, 1.0])
        np.testing.assert_allclose(nash_averaging(skill[:, None] - skill).mixture, (0, 1, 0), atol=1e-12)

    def test_equals_are_weighed_equally(self):
        np.testing.assert_allclose(nash_averaging(np.zeros((4, 4))).mixture, 0.25)

    def test_permuted_players_get_permuted_weights(self):
        payoff = np.random.default_rng(0).normal(size=(7, 7))
        payoff -= payoff.T
        order = np.random.default_rng(1).permutation(7)
        there = nash_averaging(payoff[order][:, order]).mixture
        np.testing.assert_allclose(there, nash_averaging(payoff).mixture[order], atol=1e-9)

    def test_payoffs_that_are_not_antisymmetric_are_refused(self):
        with pytest.raises(ValueError, match="antisymmetric"):
            nash_averaging([[0, 1], [1, 0]])


class TestAlphaRank:
    def test_five_strategies_of_han_2013(self):
        # OpenSpiel's alpharank_test.py prints these figures.
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


class TestMetaStrategies:
    @pytest.mark.parametrize(
        "solver",
        [uniform_meta_strategy, nash_meta_strategy, alpha_rank_meta_strategy, projected_replicator_meta_strategy],
    )
    def test_rock_paper_scissors_is_mixed_in_thirds_by_all(self, solver):
        for mixture in solver([ROCK_PAPER_SCISSORS, -ROCK_PAPER_SCISSORS]):
            np.testing.assert_allclose(mixture, THIRDS, atol=1e-9)

    @pytest.mark.parametrize(
        "solver", [nash_meta_strategy, alpha_rank_meta_strategy, projected_replicator_meta_strategy]
    )
    def test_a_dominant_strategy_is_found_from_other_than_square_games(self, solver):
        payoff = np.array([[2.0, 3.0, 2.5], [0.0, 1.0, 0.5]])
        rows, columns = solver([payoff, -payoff])
        assert rows[0] > 0.99
        assert columns[0] > 0.9

    def test_nash_takes_constant_sums_and_refuses_others(self):
        payoff = np.array([[1.0, -2.0], [-1.0, 1.0]])
        rows, columns = nash_meta_strategy([payoff + 4.0, 3.0 - payoff])
        np.testing.assert_allclose(rows, (0.4, 0.6), atol=1e-12)
        np.testing.assert_allclose(columns, (0.6, 0.4), atol=1e-12)
        with pytest.raises(InputError, match="zero-sum"):
            nash_meta_strategy([payoff, payoff])
        with pytest.raises(InputError, match="two players"):
            nash_meta_strategy([np.zeros((2, 2, 2))] * 3)

    def test_projected_replicator_averages_to_the_mixed_equilibrium(self):
        payoff = np.array([[1.0, -2.0], [-1.0, 1.0]])
        rows, columns = projected_replicator_meta_strategy([payoff, -payoff])
        np.testing.assert_allclose(rows, (0.4, 0.6), atol=0.01)
        np.testing.assert_allclose(columns, (0.6, 0.4), atol=0.01)

    def test_projected_replicator_keeps_exploring(self):
        payoff = np.array([[2.0, 2.0], [0.0, 0.0]])
        rows, _ = projected_replicator_meta_strategy([payoff, -payoff], exploration=0.2, iterations=5000)
        assert rows[1] >= 0.1 - 1e-12

    def test_replicator_rests_at_an_equilibrium_and_keeps_the_sum(self):
        at_rest = replicator_step([ROCK_PAPER_SCISSORS, -ROCK_PAPER_SCISSORS], [THIRDS, THIRDS])
        np.testing.assert_allclose(np.stack(at_rest), 0.0, atol=1e-15)
        generator = np.random.default_rng(0)
        payoffs = [generator.normal(size=(2, 3, 4)) for _ in range(3)]
        mixtures = [generator.dirichlet(np.ones(size)) for size in (2, 3, 4)]
        rates = replicator_step(payoffs, mixtures)
        for axis, rate in enumerate(rates):
            assert rate.sum() == pytest.approx(0.0, abs=1e-12)
            letters = "ijk"
            others = [k for k in range(3) if k != axis]
            fitness = np.einsum(
                f"ijk,{letters[others[0]]},{letters[others[1]]}->{letters[axis]}",
                payoffs[axis], mixtures[others[0]], mixtures[others[1]],
            )  # fmt: skip
            np.testing.assert_allclose(rate, mixtures[axis] * (fitness - fitness @ mixtures[axis]), atol=1e-12)

    def test_projection_is_the_nearest_mixture(self):
        generator = np.random.default_rng(0)
        for minimum in (0.0, 0.05):
            for _ in range(20):
                point = generator.normal(size=5)
                ours = project_to_simplex(point, minimum=minimum)
                assert ours.sum() == pytest.approx(1.0)
                assert ours.min() >= minimum - 1e-12
                # Nearest: the way to any other mixture does not lead closer (variational inequality).
                for vertex in np.eye(5):
                    other = minimum + (1 - 5 * minimum) * vertex
                    assert (point - ours) @ (other - ours) <= 1e-9
        np.testing.assert_allclose(project_to_simplex(np.array([3.0, 1.0]), minimum=0.5), 0.5)
