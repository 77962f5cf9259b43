import math

import numpy as np
import pytest

from marl.errors import InputError
from marl.ratings.plackett_luce import RankedGame, plackett_luce


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
