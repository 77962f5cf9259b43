import itertools
from collections import Counter

import pytest

from marl.errors import InputError
from marl.games.pairings import Matchup, batches_of, check_entries, gauntlet, round_robin, swiss_round, swiss_rounds


@pytest.mark.parametrize("players", [("a", "b"), ("a", "b", "c"), ("a", "b", "c", "d")])
@pytest.mark.parametrize("games", [1, 2, 5, 12, 13])
def test_seats_are_balanced_to_within_one_game_at_any_time(players, games):
    matchup = Matchup(number=0, players=players, games=games)
    seats = {name: Counter(dict.fromkeys(range(len(players)), 0)) for name in players}
    for game in matchup.schedule(first_game=7, first_unit=3):
        assert sorted(game.players) == sorted(players)
        for seat, name in enumerate(game.players):
            seats[name][seat] += 1
        for counts in seats.values():
            assert max(counts.values()) - min(counts.values()) <= 1


def test_games_of_a_unit_share_its_number_and_every_player_has_every_seat_once():
    games = list(Matchup(number=2, players=("a", "b", "c"), games=9).schedule(first_game=100, first_unit=40))
    assert [game.index for game in games] == list(range(100, 109))
    assert [game.pair for game in games] == [40] * 3 + [41] * 3 + [42] * 3
    for start in (0, 3, 6):
        for seat in range(3):
            assert {game.players[seat] for game in games[start : start + 3]} == {"a", "b", "c"}
    # The neighbours change too: around the table one way, then the other.
    assert games[0].players == ("a", "b", "c")
    assert games[3].players == ("c", "b", "a")


@pytest.mark.parametrize(("games", "most"), [(100, 64), (7, 2), (1, 64), (65, 64), (9, 4), (10, 1)])
def test_batches_hold_all_games_once_in_whole_units(games, most):
    batches = batches_of(Matchup(number=0, players=("a", "b"), games=games), first_game=0, first_unit=0, most=most)
    assert [game.index for batch in batches for game in batch] == list(range(games))
    sizes = [len(batch) for batch in batches]
    assert all(0 < size <= max(most, 2) for size in sizes)
    assert max(sizes) - min(sizes) <= 2 + games % 2
    units = [{game.pair for game in batch} for batch in batches]
    assert all(not first & second for first, second in itertools.combinations(units, 2))


def test_formats():
    assert round_robin("abc", 2) == [("a", "b"), ("a", "c"), ("b", "c")]
    assert len(round_robin("abcde", 3)) == 10
    assert gauntlet("abcd", 2) == [("a", "b"), ("a", "c"), ("a", "d")]
    assert gauntlet("abcd", 3) == [("a", "b", "c"), ("a", "b", "d"), ("a", "c", "d")]
    assert [swiss_rounds(players, 2) for players in (2, 3, 4, 8, 9)] == [1, 2, 2, 3, 4]
    assert swiss_rounds(9, 3) == 2


def play_swiss(players, rounds, strength):
    """A Swiss tournament in which the stronger always wins: its matchups, and who sat out."""
    met, byes, points, history = Counter(), Counter(), {name: [] for name in players}, []
    for _ in range(rounds):
        scores = {name: sum(won) / len(won) for name, won in points.items() if won}
        chosen = swiss_round(players, 2, scores, met, byes)
        seated = {name for pair in chosen for name in pair}
        assert len(seated) == 2 * len(chosen) == len(players) // 2 * 2
        for pair in chosen:
            met[frozenset(pair)] += 1
            for name in pair:
                points[name].append(float(strength[name] == max(strength[n] for n in pair)))
        byes.update(set(players) - seated)
        history.append(chosen)
    return history, met, byes, points


@pytest.mark.parametrize("count", [4, 5, 8, 9])
def test_swiss_players_meet_anew_while_they_can_and_sit_out_in_turn(count):
    players = [f"p{index}" for index in range(count)]
    strength = {name: (index * 7) % count for index, name in enumerate(players)}
    _, met, byes, _ = play_swiss(players, swiss_rounds(count, 2), strength)
    assert max(met.values()) == 1
    assert max(byes.values(), default=0) <= 1


def test_swiss_finds_the_best_and_pairs_equals():
    players = [f"p{index}" for index in range(8)]
    strength = {name: (index * 3) % 8 for index, name in enumerate(players)}
    history, _, _, points = play_swiss(players, 3, strength)
    best = max(strength, key=lambda name: strength[name])
    assert [name for name, won in points.items() if sum(won) == 3] == [best]
    winners = {name for pair in history[0] for name in pair if strength[name] == max(strength[n] for n in pair)}
    assert all(len(winners & set(pair)) in (0, 2) for pair in history[1])


def test_swiss_goes_on_when_everybody_has_met_everybody():
    players = ["a", "b", "c", "d"]
    _, met, _, _ = play_swiss(players, 7, dict.fromkeys(players, 0) | {"a": 1})
    assert max(met.values()) - min(met.values()) <= 1


def test_swiss_of_three_sides_seats_all_but_the_rest():
    chosen = swiss_round([f"p{i}" for i in range(8)], 3, {}, {}, {})
    assert [len(table) for table in chosen] == [3, 3]


def test_too_few_players_for_the_sides_are_refused():
    with pytest.raises(InputError, match="3 sides, but there are 2 players"):
        check_entries(["a", "b"], 3, 10)
    with pytest.raises(InputError, match="--games must be at least 1"):
        check_entries(["a", "b"], 2, 0)
