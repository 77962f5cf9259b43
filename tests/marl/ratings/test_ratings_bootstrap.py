import math

import numpy as np
import pytest
from simulated_games import NAMES, TRUTH, games_of, simulate

from marl.ratings.bootstrap import bootstrap_elo
from marl.ratings.elo import elo_ratings
from marl.ratings.payoffs import Games


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
