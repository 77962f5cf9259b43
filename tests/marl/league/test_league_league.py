"""Leagues: snapshots that are never lost, results that add up, roles, and runs that resume exactly."""

import numpy as np
import pytest
import torch

from marl.checkpoints.snapshots import SnapshotStore
from marl.distributed.communicators import SerialCommunicator
from marl.league.league import League
from marl.league.matchmaking import PFSP, Latest, UniformPast, Window
from marl.league.opponents import LeagueOpponents
from marl.league.results import LeagueResults
from marl.league.roles import (
    Exploiter,
    MainPlayer,
    Oracle,
    SelfPlayer,
    alpha_rank_mixture,
    nash_mixture,
    uniform_mixture,
)
from marl.ratings.payoffs import DRAW, LOSS, WIN
from marl.self_play.opponents import LEARNER, RANDOM

SERIAL = SerialCommunicator()


def parameters(number):
    return {"policy.weight": torch.full((2, 3), float(number)), "policy.bias": torch.arange(number + 1)}


def league_of(*names, store=None, role=None, **settings):
    learners = {name: role or SelfPlayer(matchmaking=UniformPast()) for name in names}
    league = League(learners, SnapshotStore() if store is None else store, **settings)
    for number, name in enumerate(names):
        league.take_snapshot(name, parameters(number), 0, SERIAL)
    league.refresh()
    return league


def games(league, rows, *, sides=2):
    """Results from (own side, opponent's number, own return, opponent's return) rows."""
    results = LeagueResults(len(league.players), sides)
    for side, opponent, own, other in rows:
        players, returns = torch.full((1, 2), opponent), torch.full((1, 2), other)
        players[0, side], returns[0, side] = LEARNER, own
        results.add(players, returns)
    return results


def test_results_count_for_the_seat_in_which_they_were_played():
    league = league_of("main")
    main, past = 0, 1
    rows = [(0, past, 1.0, -1.0), (0, past, 1.0, -1.0), (1, past, 1.0, -1.0), (1, past, 0.0, 0.0), (0, past, -1.0, 1.0)]
    total = league.add_results("main", games(league, rows), SERIAL)
    counts = league.payoffs.counts
    assert counts[main, past].tolist() == [1, 0, 2]
    # In the other seat the snapshot sat first: its losses are the learner's wins.
    assert counts[past, main, LOSS] == 1
    assert counts[past, main, DRAW] == 1
    assert counts[past, main, WIN] == 0
    assert league.payoffs.win_rates()[main, past] == pytest.approx((2 + 1 + 0.5) / 5)
    assert league.payoffs.returns[main, past].tolist() == [1.0, -1.0]
    assert total.sides.tolist() == [[3.0, 2.0], [2.0, 1.5]]


def test_games_against_itself_and_against_random_players_count_for_nothing():
    league = league_of("main")
    results = LeagueResults(2, 2)
    results.add(torch.tensor([[LEARNER, LEARNER], [LEARNER, RANDOM]]), torch.tensor([[1.0, -1.0], [1.0, -1.0]]))
    league.add_results("main", results, SERIAL)
    assert int(league.payoffs.counts.sum()) == 0


def test_in_a_game_of_three_each_opponent_is_a_game():
    league = league_of("main")
    results = LeagueResults(2, 3)
    results.add(torch.tensor([[1, LEARNER, 1]]), torch.tensor([[3.0, 2.0, 1.0]]))
    league.add_results("main", results, SERIAL)
    assert league.payoffs.counts[1, 0].tolist() == [0, 0, 1]
    assert league.payoffs.counts[0, 1].tolist() == [0, 0, 1]


def test_ranks_count_what_one_process_counts():
    class Ranks(SerialCommunicator):
        size = 2

        def all_reduce(self, tensor, operation="sum"):
            tensor.mul_(2)

    one, two = league_of("main"), league_of("main")
    rows = [(0, 1, 1.0, -1.0), (1, 1, 0.0, 0.0)]
    one.add_results("main", games(one, rows * 2), SERIAL)
    two.add_results("main", games(two, rows), Ranks())
    assert torch.equal(one.payoffs.counts, two.payoffs.counts)
    assert torch.equal(one.payoffs.returns, two.payoffs.returns)


def test_old_games_fade_for_matchmaking_but_are_not_forgotten():
    league = league_of("main", memory=100)
    for _ in range(20):
        league.add_results("main", games(league, [(0, 1, -1.0, 1.0)] * 10), SERIAL)
    for _ in range(20):
        league.add_results("main", games(league, [(0, 1, 1.0, -1.0)] * 10), SERIAL)
    assert league.payoffs.win_rates()[0, 1] == 0.5
    assert league.recent.win_rates()[0, 1] > 0.75
    assert league.recent.games()[0, 1] <= 110


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (Latest(), [1.0, 0.0, 0.0, 0.0]),
        (UniformPast(), [0.25, 0.25, 0.25, 0.25]),
        (Window(window=2, play_against_latest_model_ratio=0.4), [0.4, 0.0, 0.3, 0.3]),
        (PFSP(prior_games=0), np.array([0.25, 1.0, 0.25, 0.0]) / 1.5),
    ],
    ids=["latest", "uniform", "window", "pfsp"],
)
def test_matchmaking_chooses_among_the_own_past_and_itself(rule, expected):
    league = league_of("main", role=SelfPlayer(matchmaking=rule))
    for number in (1, 2):
        league.take_snapshot("main", parameters(number), number, SERIAL)
    league.add_results("main", games(league, [(0, 1, -1.0, 1.0), (0, 3, 1.0, -1.0)]), SERIAL)
    league.refresh()
    assert league.players == ("main", "main-0000", "main-0001", "main-0002")
    np.testing.assert_allclose(league.probabilities("main"), expected)


def test_alphastars_main_player_meets_itself_everybodys_past_and_exploiters():
    roles = {"main": MainPlayer(matchmaking=UniformPast()), "exploiter": Exploiter(), "league": Exploiter(target=None)}
    league = League(roles, SnapshotStore())
    for name in roles:
        league.take_snapshot(name, parameters(0), 0, SERIAL)
    league.refresh()
    main = league.probabilities("main")
    assert main.sum() == pytest.approx(1.0)
    third = (1 - 0.35 - 0.15) / 3
    np.testing.assert_allclose(main, [0.35, 0, 0, third, third + 0.075, third + 0.075])
    np.testing.assert_allclose(league.probabilities("exploiter"), [0, 0, 0, 1, 0, 0])
    np.testing.assert_allclose(league.probabilities("league"), [0, 0, 0, 1 / 3, 1 / 3, 1 / 3])


def test_a_main_exploiter_without_hope_plays_the_main_players_past():
    roles = {"main": MainPlayer(), "exploiter": Exploiter(min_games=5)}
    league = League(roles, SnapshotStore())
    league.take_snapshot("main", parameters(0), 0, SERIAL)
    league.take_snapshot("main", parameters(1), 1, SERIAL)
    league.take_snapshot("exploiter", parameters(2), 0, SERIAL)
    newest = league.payoffs.index("main-0001")
    league.refresh()
    assert league.probabilities("exploiter")[newest] == 1.0
    league.add_results("exploiter", games(league, [(0, newest, -1.0, 1.0)] * 6), SERIAL)
    league.refresh()
    easier = league.payoffs.index("main-0000")
    # By x (1 - x): one half against the unknown, 0.5 / 7 with the imaginary game against the newest.
    assert league.probabilities("exploiter")[easier] == pytest.approx(0.25 / (0.25 + 0.5 * 6.5 / 49))


def test_an_exploiter_is_done_when_it_wins_or_when_its_time_is_over():
    role = Exploiter(min_games=10, win_rate=0.7, min_steps=100, max_steps=1000)
    league = League({"main": MainPlayer(), "exploiter": role}, SnapshotStore())
    league.take_snapshot("main", parameters(0), 0, SERIAL)
    league.take_snapshot("exploiter", parameters(1), 0, SERIAL)
    row = league.payoffs.index("main-0000")
    league.add_results("exploiter", games(league, [(0, row, 1.0, -1.0)] * 9), SERIAL)
    assert not role.snapshot_due(league, "exploiter", 500)  # too few games
    league.add_results("exploiter", games(league, [(0, row, 1.0, -1.0)] * 2), SERIAL)
    assert not role.snapshot_due(league, "exploiter", 50)
    assert role.snapshot_due(league, "exploiter", 500)
    league.forget("exploiter")
    assert not role.snapshot_due(league, "exploiter", 500)
    assert role.snapshot_due(league, "exploiter", 1000)
    assert int(league.payoffs.games()[row, 1]) == 11


def opponents_of(league, *, num_envs=64, first_env=0, **settings):
    return LeagueOpponents(
        league, "main", None, num_sides=2, num_envs=num_envs, first_env=first_env, seed=5, **settings
    )


def test_matches_are_the_same_however_copies_are_spread_over_ranks():
    league = league_of("main", role=SelfPlayer(matchmaking=UniformPast()))
    for number in (1, 2):
        league.take_snapshot("main", parameters(number), number, SERIAL)
    league.refresh()
    whole = opponents_of(league)
    halves = [opponents_of(league, num_envs=32, first_env=first) for first in (0, 32)]
    episodes = torch.randint(0, 500, (64,), generator=torch.Generator().manual_seed(0))
    drawn = whole.draw(torch.arange(64), episodes)
    parts = [half.draw(torch.arange(32), part) for half, part in zip(halves, episodes.split(32), strict=True)]
    assert torch.equal(drawn, torch.cat(parts))
    # And whatever was drawn before.
    some = torch.tensor([3, 40, 7])
    assert torch.equal(opponents_of(league).draw(some, episodes[some]), drawn[some])


def test_opponents_come_as_often_as_they_should():
    league = league_of("main", role=SelfPlayer(matchmaking=Window(window=2, play_against_latest_model_ratio=0.5)))
    for number in (1, 2):
        league.take_snapshot("main", parameters(number), number, SERIAL)
    league.refresh()
    opponents = opponents_of(league)
    drawn = torch.cat([opponents.draw(torch.arange(64), torch.full((64,), k)) for k in range(100)])
    both = (drawn == LEARNER).all(1)
    assert float(both.float().mean()) == pytest.approx(0.5, abs=0.03)
    others = drawn[~both].max(1).values
    assert torch.bincount(others, minlength=4)[:2].tolist() == [0, 0]
    assert float((others == 3).float().mean()) == pytest.approx(0.5, abs=0.04)
    # Each side as often.
    assert int((drawn[~both, 0] == LEARNER).sum()) == pytest.approx(int((~both).sum()) / 2, rel=0.05)


def test_with_swap_steps_a_copy_keeps_its_opponents_for_a_period():
    league = league_of("main", role=SelfPlayer(matchmaking=UniformPast()))
    for number in range(1, 6):
        league.take_snapshot("main", parameters(number), number, SERIAL)
    league.refresh()
    period = [0]
    opponents = opponents_of(league, swap_period=lambda: period[0])

    def met(episode):
        drawn = opponents.draw(torch.arange(64), torch.full((64,), episode))
        return torch.where((drawn == LEARNER).all(1), LEARNER, drawn.max(1).values)

    first = met(0)
    assert torch.equal(met(1), first)
    assert torch.equal(met(2), first)
    period[0] = 1
    assert not torch.equal(met(3), first)


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        (nash_mixture, [0.0, 1 / 3, 1 / 3, 1 / 3]),
        (alpha_rank_mixture, [0.0, 1 / 3, 1 / 3, 1 / 3]),
        (uniform_mixture, [0.25] * 4),
    ],
)
def test_psro_meets_the_mixture_that_solves_the_game_between_snapshots(strategy, expected):
    """Rock, paper, scissors, and somebody who loses to all of them."""
    league = League({"main": Oracle(meta_strategy=strategy)}, SnapshotStore())
    for number in range(4):
        league.take_snapshot("main", parameters(number), 0, SERIAL)
    for winner, loser in ((3, 2), (4, 3), (2, 4), (2, 1), (3, 1), (4, 1)):
        for first, second, result in ((winner, loser, 1.0), (loser, winner, -1.0)):
            league.add_games(np.array([first]), np.array([second]), np.array([[result, -result]]))
    league.refresh()
    np.testing.assert_allclose(league.probabilities("main"), [0.0, *expected], atol=1e-6)
