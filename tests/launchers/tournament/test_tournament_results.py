import json
import math
import os
import random

import numpy as np
import pytest

from marl.errors import InputError
from marl.games.game import Forfeit, PlayedGame
from marl.games.pairings import Matchup
from marl.launchers.tournament.games_file import GamesFile
from marl.launchers.tournament.results import comparisons, results_json, sequential_test, tally
from marl.ratings.sprt import SPRTConfig, sprt

TWO = ("first", "second")
THREE = (*TWO, "third")


def game(index, players, returns, *, pair=None, ending="finished", forfeits=(), places=None):
    if places is None:
        places = tuple(sum(other > value for other in returns) for value in returns)
    return PlayedGame(
        index=index,
        pair=index // len(players) if pair is None else pair,
        players=players,
        returns=returns,
        places=places,
        length=3,
        ending=ending,
        forfeits=forfeits,
        trace=hash((index, returns)) % 2**64,
    )


def match(results, players=("a", "b")):
    """Games of two, seats changing: each result is the score of players[0]."""
    games = []
    for index, score in enumerate(results):
        own = 2 * score - 1
        swapped = index % 2
        games.append(game(index, players[::-1] if swapped else players, (-own, own) if swapped else (own, -own)))
    return games


def test_games_survive_the_file_whatever_their_fields(tmp_path):
    file = GamesFile(tmp_path / "games.jsonl")
    forfeit = Forfeit(player="ä b", kind="crash", detail='said "no"\u2028')
    written = [
        game(0, ("ä b", "c"), (0.1 + 0.2, -1e-300), forfeits=(forfeit,), ending="forfeit"),
        game(1, ("c", "ä b"), (1.0, 1.0)),
    ]
    file.append(written[1:])
    file.append(written[:1])
    assert file.read() == {0: written[0], 1: written[1]}
    assert file.count() == 2
    file.rewrite(file.read())
    assert [json.loads(line)["index"] for line in file.path.read_text().split("\n") if line] == [0, 1]
    file.append([])
    assert file.count() == 2


def test_a_file_that_is_not_there_has_no_games(tmp_path):
    assert GamesFile(tmp_path / "games.jsonl").read() == {}


def test_every_cut_of_the_file_loses_only_the_game_that_was_cut(tmp_path):
    file = GamesFile(tmp_path / "games.jsonl")
    written = match([1, 0, 0.5])
    file.append(written)
    whole = file.path.read_bytes()
    for size in range(len(whole)):
        file.path.write_bytes(whole[:size])
        kept = whole[:size].count(b"\n")
        read = file.read()
        # The last line is whole also without its end.
        assert list(read)[:kept] == list(range(kept))
        assert len(read) <= kept + 1
        assert all(read[index] == written[index] for index in read)
        file.append([game(9, ("a", "b"), (1.0, 0.0))])
        again = file.read()
        assert 9 in again
        assert again.keys() - {9} == read.keys()


def test_repeated_and_foreign_lines_do_not_count(tmp_path):
    file = GamesFile(tmp_path / "games.jsonl")
    first, again = game(0, ("a", "b"), (1.0, 0.0)), game(0, ("a", "b"), (0.0, 1.0))
    file.append([first, again])
    with open(file.path, "ab") as raw:
        raw.write(b'[]\n{"index": 1}\nnull\n\xff\xfe\n')
    assert file.read() == {0: first}


def test_a_full_disk_leaves_nothing_of_the_games(tmp_path, monkeypatch):
    file = GamesFile(tmp_path / "games.jsonl")
    file.append(match([1]))
    before = file.path.read_bytes()

    def half(descriptor, data):
        os.write(descriptor, bytes(data)[: len(data) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("marl.launchers.tournament.games_file.write_all", half)
    with pytest.raises(InputError, match="No space left on device"):
        file.append(match([1, 0]))
    assert file.path.read_bytes() == before


def test_sides_of_a_game_are_compared_by_their_places():
    games = [game(0, ("a", "b", "c"), (5.0, 1.0, 5.0))]
    assert comparisons(games, "game") == [("a", "b", 1.0, 0), ("a", "c", 0.5, 0), ("b", "c", 0.0, 0)]


def test_duplicates_are_compared_in_the_same_seat_of_the_same_deal():
    # Wolves always have more than hares; a is the better wolf, and they are equal hares.
    games = [game(0, ("a", "b"), (30.0, -9.0)), game(1, ("b", "a"), (10.0, -9.0))]
    assert comparisons(games, "duplicate") == [("a", "b", 1.0, 0), ("a", "b", 0.5, 0)]
    assert comparisons(games[:1], "duplicate") == []


def test_a_forfeit_loses_both_comparisons_of_its_pair_and_a_step_limit_makes_them_equal():
    forfeit = Forfeit(player="a", kind="crash", detail="")
    forfeited = game(0, ("a", "b"), (0.0, 0.0), ending="forfeit", forfeits=(forfeit,), places=(1, 0))
    fine = game(1, ("b", "a"), (10.0, 99.0))
    assert [row[2] for row in comparisons([forfeited, fine], "duplicate")] == [0.0, 0.0]
    endless = game(0, ("a", "b"), (50.0, 0.0), ending="step_limit", places=(0, 0))
    assert [row[2] for row in comparisons([endless, fine], "duplicate")] == [0.5, 0.5]


def test_the_table_does_not_depend_on_the_order_of_games():
    games = match([1, 1, 0.5, 0, 1, 0, 1, 1, 0.5, 1, 0, 1])
    shuffled = games[:]
    random.Random(0).shuffle(shuffled)
    one, other = (results_json(tally(some, ["a", "b"], TWO, "game")) for some in (games, shuffled))
    assert json.dumps(one) == json.dumps(other)


def test_elo_of_two_is_the_logistic_formula_and_points_are_counted():
    # 30 wins and 10 losses of 40, evenly over the seats: odds of 3 are 190.85 Elo.
    results = tally(match([1, 1, 1, 0, 1, 1, 0, 1] * 5), ["a", "b"], TWO, "game", anchor="b")
    best, other = results.standings
    assert (best.player, other.player) == ("a", "b")
    assert best.elo == pytest.approx(400 * math.log10(3), abs=0.2)
    assert (other.elo, other.interval) == (0.0, (0.0, 0.0))
    assert best.interval[0] < best.elo < best.interval[1]
    assert (best.wins, best.draws, best.losses, best.games) == (30, 0, 10, 40)
    assert best.score == 0.75
    assert best.seats == {"first": 20, "second": 20}
    assert results.win_rates[0, 1] == 0.75
    assert results.superiority[0, 1] > 0.99


def test_the_first_seats_advantage_is_told_from_strength():
    # The first seat always wins.
    games = match([1, 0] * 20)
    results = tally(games, ["a", "b"], TWO, "game")
    assert results.standings[0].elo == pytest.approx(0.0, abs=1e-6)
    assert results.seat_advantage > 400
    assert results.standings[0].seat_scores == {"first": 1.0, "second": 0.0}


def test_players_that_never_met_have_no_win_rate():
    results = tally(match([1, 0, 1, 1]), ["a", "b", "c"], TWO, "game")
    rates = results.win_rates
    assert math.isnan(rates[0, 2])
    assert results_json(results)["payoff"]["win_rates"][0][2] is None


def test_rock_paper_scissors_has_a_nash_average_of_thirds():
    rows = [(("r", "s"), 1), (("s", "p"), 1), (("p", "r"), 1)]
    games = [
        game(2 * number + turn, players[::-1] if turn else players, (0.0, 1.0) if turn else (1.0, 0.0))
        for number, (players, _) in enumerate(rows)
        for turn in (0, 1)
    ]
    results = tally(games, ["r", "p", "s"], TWO, "game")
    np.testing.assert_allclose([one.nash_share for one in results.standings], 1 / 3, atol=1e-9)
    np.testing.assert_allclose([one.alpha_rank for one in results.standings], 1 / 3, atol=1e-9)


def test_forfeits_and_step_limits_are_counted_apart():
    forfeit = Forfeit(player="a", kind="timeout", detail="")
    games = [
        game(0, ("a", "b"), (0.0, 0.0), ending="forfeit", forfeits=(forfeit,), places=(1, 0)),
        game(1, ("b", "a"), (3.0, 1.0), ending="step_limit", places=(0, 0)),
        *[game(2 + i, ("a", "b"), (1.0, 0.0)) for i in range(2)],
    ]
    results = tally(games, ["a", "b"], TWO, "game")
    a = next(one for one in results.standings if one.player == "a")
    assert a.forfeits == {"crash": 0, "timeout": 1, "illegal": 0}
    assert (a.wins, a.draws, a.losses, a.step_limits) == (2, 1, 1, 1)
    assert (results.forfeits, results.step_limits) == (1, 1)


def test_three_sides_are_rated_by_openskill_too():
    pytest.importorskip("openskill", reason="openskill is not installed")
    rotations = [("a", "b", "c"), ("b", "c", "a"), ("c", "a", "b")]
    strength = {"a": 3.0, "b": 2.0, "c": 1.0}
    games = [
        game(index, rotations[index % 3], tuple(strength[name] for name in rotations[index % 3])) for index in range(12)
    ]
    results = tally(games, ["a", "b", "c"], THREE, "game")
    assert [one.player for one in results.standings] == ["a", "b", "c"]
    ordinals = [one.openskill["ordinal"] for one in results.standings]
    assert ordinals == sorted(ordinals, reverse=True)
    assert results.seat_advantage is None


def test_the_sequential_test_takes_pairs_in_order_up_to_the_first_that_is_missing():
    matchup = Matchup(number=0, players=("a", "b"), games=400)
    config = SPRTConfig(elo0=0, elo1=50)
    generator = random.Random(5)
    games = {g.index: g for g in match([generator.choice([1, 1, 0.5, 0]) for _ in range(400)])}
    whole = sequential_test(matchup, games, 0, "game", config)
    assert whole.decision == "elo1"
    assert whole.used < 200
    del games[30]
    cut = sequential_test(matchup, games, 0, "game", config)
    assert cut.used <= 15
    scores = [round(2 * sum(_points(games[i], "a") for i in (start, start + 1))) for start in range(0, 30, 2)]
    assert cut == sprt(scores, config)


def _points(played, name):
    return {0: 1.0, 1: 0.0}[played.places[played.players.index(name)]] if played.places != (0, 0) else 0.5
