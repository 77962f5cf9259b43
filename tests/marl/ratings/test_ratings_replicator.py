import numpy as np
import pytest

from marl.ratings.replicator import project_to_simplex, projected_replicator, replicator_mixture, replicator_step

ROCK_PAPER_SCISSORS = np.array([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]])
THIRDS = np.full(3, 1 / 3)


class TestProjectedReplicator:
    def test_rock_paper_scissors_is_mixed_in_thirds(self):
        for mixture in projected_replicator([ROCK_PAPER_SCISSORS, -ROCK_PAPER_SCISSORS]):
            np.testing.assert_allclose(mixture, THIRDS, atol=1e-9)
        np.testing.assert_allclose(replicator_mixture(ROCK_PAPER_SCISSORS), THIRDS, atol=1e-9)

    def test_a_dominant_strategy_is_found_from_other_than_square_games(self):
        payoff = np.array([[2.0, 3.0, 2.5], [0.0, 1.0, 0.5]])
        rows, columns = projected_replicator([payoff, -payoff])
        assert rows[0] > 0.99
        assert columns[0] > 0.9

    def test_a_player_that_loses_to_all_gets_next_to_nothing(self):
        payoff = np.zeros((4, 4))
        payoff[:3, :3] = ROCK_PAPER_SCISSORS
        payoff[:3, 3], payoff[3, :3] = 1.0, -1.0
        mixture = replicator_mixture(payoff)
        assert mixture[3] < 0.01
        np.testing.assert_allclose(mixture[:3], 1 / 3, atol=0.01)

    def test_projected_replicator_averages_to_the_mixed_equilibrium(self):
        payoff = np.array([[1.0, -2.0], [-1.0, 1.0]])
        rows, columns = projected_replicator([payoff, -payoff])
        np.testing.assert_allclose(rows, (0.4, 0.6), atol=0.01)
        np.testing.assert_allclose(columns, (0.6, 0.4), atol=0.01)

    def test_projected_replicator_keeps_exploring(self):
        payoff = np.array([[2.0, 2.0], [0.0, 0.0]])
        rows, _ = projected_replicator([payoff, -payoff], exploration=0.2, iterations=5000)
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
