import numpy as np
import pettingzoo
import pytest
import toy_match
from toy_games import arena, pairs, play

from marl.envs.factory import make_constructor
from marl.envs.pettingzoo.arena import PettingZooArena
from marl.errors import InputError
from marl.games.batch import play_games
from marl.games.game import Game, GameRules
from marl.games.policy_players import RandomPlayer
from marl.games.sides import Sides, sides_are_alike
from marl.random_streams import derive_int


def test_the_higher_bidder_wins_in_both_seats_and_returns_are_the_prizes():
    games = play(arena(), pairs("high", "low"), high=toy_match.High, low=toy_match.Low)
    for game in games:
        winner = game.players.index("high")
        assert (game.ending, game.length, game.places[winner], game.places[1 - winner]) == ("finished", 4, 0, 1)
        assert 4 <= game.returns[winner] <= 12
        assert game.returns[1 - winner] == 0
    # Both games of a pair have the environment's seed in common, other pairs another.
    for forth, back in zip(games[::2], games[1::2], strict=True):
        assert forth.returns == back.returns[::-1]
    assert len({game.returns[game.players.index("high")] for game in games}) > 1


def test_games_are_those_of_a_plain_loop_with_the_same_seeds_and_choices():
    envs = PettingZooArena(make_constructor("classic/tictactoe-v3"), 6)

    class Lowest:
        def act(self, agent, observation, action_mask):
            return int(np.flatnonzero(action_mask)[0])

    class Highest:
        def act(self, agent, observation, action_mask):
            return int(np.flatnonzero(action_mask)[-1])

    games = play(envs, pairs("low", "high", 6), low=Lowest, high=Highest)
    environment = pettingzoo.make("aec", "classic/tictactoe-v3")
    for game in games:
        environment.reset(seed=derive_int(3, "game/environment", game.pair))
        taken = dict(zip(environment.possible_agents, game.players, strict=True))
        returns, length = dict.fromkeys(environment.possible_agents, 0.0), 0
        for agent in environment.agent_iter():
            observation, reward, terminated, truncated, _ = environment.last()
            returns[agent] += reward
            legal = np.flatnonzero(observation["action_mask"])
            move = None if terminated or truncated else int(legal[0] if taken[agent] == "low" else legal[-1])
            length += move is not None
            environment.step(move)
        assert game.returns == tuple(returns.values())
        assert game.length == length


def test_a_batch_is_a_function_of_seed_and_indices_alone():
    everything = {"a": RandomPlayer, "b": toy_match.Slow}
    once = play(arena(8), pairs("a", "b"), **everything)
    again = play(arena(11), pairs("a", "b"), **everything)
    other = play(arena(8), pairs("a", "b"), GameRules(seed=4), **everything)
    assert once == again
    assert once != other
    assert len({game.trace for game in once}) > 4


def test_random_numbers_of_a_game_follow_from_its_index_not_from_its_batch():
    envs = arena(8)
    sides = Sides(envs.spec)
    players = {"a": RandomPlayer(envs.spec), "b": RandomPlayer(envs.spec)}
    games = pairs("a", "b")
    together = play_games(envs, sides, players, games, GameRules(seed=1))
    apart = [
        played
        for start in (0, 2, 4, 6)
        for played in play_games(envs, sides, players, games[start : start + 2], GameRules(seed=1))
    ]
    assert together == apart


def test_games_without_end_are_draws_at_the_step_limit():
    rules = GameRules(max_steps=9)
    games = play(arena(endless=True), pairs("high", "low"), rules, high=toy_match.High, low=toy_match.Low)
    assert {(game.ending, game.length, game.places) for game in games} == {("step_limit", 9, (0, 0))}


def test_random_opening_moves_are_equal_within_a_pair_and_different_between_pairs():
    envs = PettingZooArena(make_constructor("classic/tictactoe-v3"), 20)

    class Lowest:
        def act(self, agent, observation, action_mask):
            return int(np.flatnonzero(action_mask)[0])

    plain = play(envs, pairs("a", "b", 20), a=Lowest, b=Lowest)
    assert len({game.trace for game in plain}) == 1
    games = play(envs, pairs("a", "b", 20), GameRules(random_opening_moves=3), a=Lowest, b=Lowest)
    assert len({game.trace for game in games}) > 5
    # Equal players and one opening: the same game from both seats.
    assert all(forth.trace == back.trace for forth, back in zip(games[::2], games[1::2], strict=True))


def test_teams_are_played_by_one_player_each():
    envs = arena(4, teams=True)
    sides = Sides(envs.spec)
    assert sides.names == ("hare", "wolf")
    assert sides.agents == (("hare_0", "hare_1"), ("wolf_0", "wolf_1"))
    assert not sides_are_alike(envs.spec, sides)
    asked = []

    class Listening(toy_match.Low):
        def reset(self, agents, seed):
            asked.append(tuple(agents))

    play(envs, pairs("listening", "high", 2), listening=Listening, high=toy_match.High)
    assert asked == [("hare_0", "hare_1"), ("wolf_0", "wolf_1")]


def test_three_sides_have_places_and_ties():
    envs = arena(3, bidders=3)
    names = ("high", "low", "lower")
    games = [
        Game(index=index, pair=0, players=tuple(names[(seat + index) % 3] for seat in range(3))) for index in range(3)
    ]
    for game in play(envs, games, high=toy_match.High, low=toy_match.Low, lower=toy_match.Low):
        places = dict(zip(game.players, game.places, strict=True))
        assert places == {"high": 0, "low": 1, "lower": 1}
    for game in play(envs, games, high=toy_match.High, low=toy_match.Low, lower=toy_match.Cheat):
        places = dict(zip(game.players, game.places, strict=True))
        assert places == {"high": 0, "low": 0, "lower": 2}


@pytest.mark.parametrize("wrong", [{"max_steps": 0}, {"move_seconds": -1.0}, {"random_opening_moves": -1}])
def test_rules_that_make_no_sense_are_refused(wrong):
    with pytest.raises(InputError):
        GameRules(**wrong)


def test_batches_must_fit_and_count():
    envs = arena(2)
    with pytest.raises(ValueError, match="3 games do not fit in 2 environments"):
        play(envs, pairs("a", "b", 3), a=toy_match.High, b=toy_match.Low)
    with pytest.raises(ValueError, match="consecutive"):
        play(envs, pairs("a", "b", 3)[::2], a=toy_match.High, b=toy_match.Low)
