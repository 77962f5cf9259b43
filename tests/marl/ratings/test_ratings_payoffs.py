import numpy as np
import pytest
import torch

from marl.core import Communicator
from marl.distributed.communicators import SerialCommunicator
from marl.errors import InputError
from marl.ratings.payoffs import DRAW, LOSS, WIN, Games, PayoffTable


def random_table(seed, players="abc", games=50):
    generator = np.random.default_rng(seed)
    table = PayoffTable(players)
    first, second = generator.integers(0, len(players), (2, games))
    table.add(first, second, generator.integers(0, 3, games), generator.normal(size=(games, 2)))
    return table


class DoublingCommunicator(SerialCommunicator):
    """As though a second rank held the same."""

    def all_reduce(self, tensor, operation="sum"):
        assert operation == "sum"
        tensor *= 2


def test_games_are_counted_by_seat_and_outcome():
    table = PayoffTable("ab")
    table.add([0, 0, 1], [1, 1, 0], [WIN, WIN, DRAW])
    table.add(1, 0, LOSS)
    assert table.counts[0, 1].tolist() == [0, 0, 2]
    assert table.counts[1, 0].tolist() == [1, 1, 0]
    assert table.games().tolist() == [[0, 4], [4, 0]]
    # a: two wins in the first seat, a draw and a win in the second.
    np.testing.assert_allclose(table.win_rates(), [[0.5, 3.5 / 4], [0.5 / 4, 0.5]])
    np.testing.assert_allclose(table.win_rates(prior_games=4), [[0.5, 5.5 / 8], [2.5 / 8, 0.5]])


def test_pairings_without_games_count_as_even():
    table = PayoffTable("abc")
    np.testing.assert_allclose(table.win_rates(), 0.5)
    np.testing.assert_allclose(table.antisymmetric_payoff(), 0.0)


def test_returns_are_averaged_by_seat():
    table = PayoffTable("ab")
    table.add([0, 0], [1, 1], [WIN, LOSS], [(3.0, -3.0), (-1.0, 1.0)])
    table.add(1, 0, WIN, [(5.0, 1.0)])
    own, other = table.mean_returns()
    np.testing.assert_allclose(own, [[0, 1], [5, 0]])
    np.testing.assert_allclose(other, [[0, -1], [1, 0]])
    # a earns (1 - -1)/2 = 1 in the first seat and (1 - 5)/2 = -2 in the second.
    np.testing.assert_allclose(table.antisymmetric_payoff(), [[0, -0.5], [0.5, 0]])


def test_ranks_are_summed_exactly():
    table = random_table(0)
    table.counts[0, 1, 2] = 2**40 + 1
    before = table.counts.clone()
    communicator: Communicator = DoublingCommunicator()
    table.all_reduce(communicator)
    assert torch.equal(table.counts, 2 * before)
    table.add(0, 1, WIN)
    assert int(table.counts[0, 1, 2]) == 2 * (2**40 + 1) + 1
    PayoffTable().all_reduce(communicator)


def test_new_players_leave_old_games_alone():
    table = random_table(0)
    before = table.counts.clone()
    table.add_players(["new"])
    assert torch.equal(table.counts[:3, :3], before)
    assert int(table.games()[3].sum()) == 0
    table.clear()
    assert int(table.counts.sum()) == 0
    assert table.players == ("a", "b", "c", "new")


def test_a_table_comes_back_from_its_state():
    table = random_table(0, ["main/1", "ünïcode", "x"])
    state = table.state_dict()
    again = PayoffTable()
    again.load_state_dict(state)
    assert again.players == table.players
    assert torch.equal(again.counts, table.counts)
    assert torch.equal(again.returns, table.returns)
    again.add(0, 1, WIN)
    assert torch.equal(state["counts"], table.counts)
    empty = PayoffTable("a")
    empty.load_state_dict(PayoffTable().state_dict())
    assert empty.players == ()


def test_a_damaged_state_is_refused():
    state = random_table(0).state_dict()
    state["counts"] = state["counts"][:2]
    with pytest.raises(ValueError, match="3 players"):
        PayoffTable().load_state_dict(state)


@pytest.mark.parametrize("names", [["a", "a"], [""], ["a\nb"]])
def test_bad_names_are_input_errors(names):
    with pytest.raises(InputError, match="player names"):
        PayoffTable(names)


@pytest.mark.parametrize(("first", "outcome"), [(2, WIN), (-1, WIN), (0, 3), (0, -1)])
def test_games_out_of_range_are_refused(first, outcome):
    table = PayoffTable("ab")
    with pytest.raises(ValueError, match=r"indices|outcomes"):
        table.add(first, 1, outcome)
    assert int(table.counts.sum()) == 0


ROWS = (("a", "b", 1, 0), ("b", "a", 0.5, 0), ("b", "a", 1, 1), ("a", "b", 0, 1), ("a", "b", 1, 2), ("a", "c", 1, 3))


def test_games_from_rows_count_like_a_table():
    games = Games.from_rows(ROWS)
    table = PayoffTable(games.players)
    table.add(games.first, games.second, games.outcome)
    assert games.players == ("a", "b", "c")
    np.testing.assert_array_equal(games.counts(), table.counts.numpy())


@pytest.mark.parametrize("rows", [ROWS, ROWS[::-1]])
def test_pairs_are_scored_in_the_order_of_their_numbers_and_only_if_complete(rows):
    games = Games.from_rows(rows)
    assert games.pair_scores("a", "b").tolist() == [3, 0]
    assert games.pair_scores("b", "a").tolist() == [1, 4]
    assert games.pair_scores("a", "c").tolist() == []


def test_bad_rows_are_input_errors():
    with pytest.raises(InputError, match=r"0, 0\.5 or 1"):
        Games.from_rows([("a", "b", 0.7, 0)])
    with pytest.raises(InputError, match="names z"):
        Games.from_rows([("a", "z", 1, 0)], players="ab")
    with pytest.raises(InputError, match="distinct"):
        Games.from_rows([], players="aa")
