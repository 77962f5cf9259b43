"""Players: who fails forfeits, memory lasts for a game, and nobody sees what others see."""

import pytest
import torch
import toy_match
from toy_games import arena, pairs, play

from marl.envs.factory import make_constructor
from marl.envs.pettingzoo.arena import PettingZooArena
from marl.games.batch import play_games
from marl.games.game import Game, GameRules
from marl.games.object_player import ObjectPlayer
from marl.games.policy_players import RandomPlayer
from marl.games.sides import Sides
from marl.policy import Policy


@pytest.mark.parametrize(
    ("player", "kind", "detail"),
    [
        (toy_match.Crash, "crash", "RuntimeError: out of ideas"),
        (toy_match.Quit, "crash", "SystemExit: 3"),
        (toy_match.Stillborn, "crash", "OSError: no weights"),
        (toy_match.Cheat, "illegal", "played 3, which is not legal"),
        (toy_match.Babble, "illegal", "answered 'two', which is no action"),
    ],
)
def test_a_player_that_fails_forfeits_and_the_game_never_sees_its_move(player, kind, detail):
    for game in play(arena(), pairs("bad", "low"), bad=player, low=toy_match.Low):
        bad = game.players.index("bad")
        assert game.ending == "forfeit"
        assert (game.places[bad], game.places[1 - bad]) == (1, 0)
        (forfeit,) = game.forfeits
        assert (forfeit.player, forfeit.kind) == ("bad", kind)
        assert detail in forfeit.detail
        assert game.length == (1 if player is toy_match.Crash else 0)


def test_an_object_that_cannot_be_made_fails_alike_in_every_batch():
    envs, games = arena(2), pairs("bad", "low", 2)
    players = {"bad": ObjectPlayer(toy_match.Stillborn), "low": ObjectPlayer(toy_match.Low)}
    first, again = (play_games(envs, Sides(envs.spec), players, games, GameRules()) for _ in range(2))
    assert first == again
    assert {game.forfeits[0].detail for game in again} == {"OSError: no weights"}


def test_a_player_that_takes_too_long_forfeits_even_if_it_catches_exceptions():
    rules = GameRules(move_seconds=0.05)
    games = play(arena(2), pairs("slow", "low", 2), rules, slow=toy_match.Sleeper, low=toy_match.Low)
    assert [game.forfeits[0].kind for game in games] == ["timeout", "timeout"]
    assert [game.places[game.players.index("slow")] for game in games] == [1, 1]


def test_both_players_may_forfeit_at_once_and_then_nobody_wins():
    for game in play(arena(), pairs("bad", "worse"), bad=toy_match.Cheat, worse=toy_match.Quit):
        assert game.places == (0, 0)
        assert sorted(forfeit.player for forfeit in game.forfeits) == ["bad", "worse"]


def test_a_batched_policy_that_fails_forfeits_only_where_it_fails_alone():
    games = play(arena(32), pairs("brittle", "low", 32), brittle=toy_match.Brittle, low=toy_match.Low)
    fine = play(arena(32), pairs("fine", "low", 32), fine=toy_match.Batched, low=toy_match.Low)
    failed = [game for game in games if game.ending == "forfeit"]
    assert 0 < len(failed) < 32
    assert all(game.forfeits[0].detail == "ValueError: zero" for game in failed)
    for game, same in zip(games, fine, strict=True):
        if game.ending == "finished":
            assert (game.returns, game.trace) == (same.returns, same.trace)


def test_recurrent_policies_begin_each_batch_anew_and_keep_their_games_apart():
    envs = arena(4)
    first = play(envs, pairs("counting", "low", 4), counting=toy_match.Counting, low=toy_match.Low)
    assert first == play(envs, pairs("counting", "low", 4), counting=toy_match.Counting, low=toy_match.Low)
    # Bids 1, 2, 0, 1 against 0: three prizes of four.
    assert {game.players[game.places.index(0)] for game in first} == {"counting"}


def test_recurrent_policies_count_the_turns_of_others_too():
    envs = PettingZooArena(make_constructor("classic/tictactoe-v3"), 1)
    seen = []

    class Watching(Policy):
        def __init__(self, group):
            self.size = group.size

        def initial_state(self, num_envs):
            return torch.zeros(num_envs, self.size, 1)

        def act(self, step, first, state, uniforms):
            seen.append(int(state[0, 0, 0]))
            choice = step.action_masks.float().argmax(-1)
            return toy_match.Decision(actions=choice, extras={}, state=state + 1)

    (game,) = play(envs, pairs("watching", "random", 1), watching=Watching, random=RandomPlayer)
    assert seen == list(range(game.length))


def test_a_policy_is_not_shown_what_other_players_see():
    envs = arena(1)
    shown = []

    class Peeking(toy_match.Batched):
        def act(self, step, first, state, uniforms):
            shown.append(step.observations.clone())
            return super().act(step, first, state, uniforms)

    play(envs, pairs("peeking", "low", 1), peeking=Peeking, low=toy_match.Low)
    assert all(float(rows[0, 0].abs().sum()) > 0 for rows in shown)
    assert all(float(rows[0, 1].abs().sum()) == 0 for rows in shown)


def test_random_players_choose_evenly_among_what_is_legal():
    envs = arena(64, rounds=1)
    chosen = []

    class Recording(toy_match.Low):
        def act(self, agent, observation, action_mask):
            chosen.append(action_mask.sum())
            return 0

    games = [Game(index=index, pair=index, players=("random", "low")) for index in range(64)]
    results = play(envs, games, random=RandomPlayer, low=Recording)
    won = sum(game.places == (0, 1) for game in results)
    drawn = sum(game.returns == (0.0, 0.0) for game in results)
    assert won + drawn == 64
    assert 12 <= drawn <= 32  # 64 / 3, three standard deviations
