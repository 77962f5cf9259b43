"""Games of the toy match for tests: environments, pairs, and players of any kind."""

import toy_match

from marl.envs.pettingzoo.arena import PettingZooArena
from marl.games.batch import play_games
from marl.games.game import Game, GameRules
from marl.games.object_player import ObjectPlayer
from marl.games.policy_players import PolicyPlayer, RandomPlayer
from marl.games.sides import Sides
from marl.policy import Policy


def arena(num_envs=8, **settings):
    return PettingZooArena(lambda: toy_match.make(**settings), num_envs)


def pairs(first, second, count=8):
    return [
        Game(index=index, pair=index // 2, players=(first, second) if index % 2 == 0 else (second, first))
        for index in range(count)
    ]


def policy_player(envs, kind):
    return PolicyPlayer(envs.spec, {group.name: kind(group) for group in envs.spec.groups})


def play(envs, games, rules=None, **players):
    sides = Sides(envs.spec)
    made = {
        name: player(envs.spec)
        if player is RandomPlayer
        else policy_player(envs, player)
        if issubclass(player, Policy)
        else ObjectPlayer(player)
        for name, player in players.items()
    }
    return play_games(envs, sides, made, games, rules or GameRules(seed=3))
