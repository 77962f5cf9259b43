import numpy as np
import pytest
from scipy.optimize import linprog

from marl.ratings.nash import nash_averaging, zero_sum_nash

ROCK_PAPER_SCISSORS = np.array([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]])
THIRDS = np.full(3, 1 / 3)


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
