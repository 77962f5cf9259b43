"""Games of the toy match for tests: boards, pairs, and players of any kind."""

import toy_match

from marl.envs.pettingzoo.arena import PettingZooArena
from marl.games.block import play_games
from marl.games.game import Game, GameRules
from marl.games.object_player import ObjectPlayer
from marl.games.players import PolicyPlayer, RandomPlayer
from marl.games.sides import two_or_more_sides
from marl.policy import Policy


def arena(boards=8, **settings):
    return PettingZooArena(lambda: toy_match.make(**settings), boards)


def pairs(first, second, count=8):
    return [
        Game(index=index, pair=index // 2, players=(first, second) if index % 2 == 0 else (second, first))
        for index in range(count)
    ]


def policy_player(boards, kind):
    return PolicyPlayer(boards.spec, {group.name: kind(group) for group in boards.spec.groups})


def play(boards, games, rules=None, **players):
    sides = two_or_more_sides(boards.spec.agents)
    made = {
        name: player(boards.spec)
        if player is RandomPlayer
        else policy_player(boards, player)
        if issubclass(player, Policy)
        else ObjectPlayer(player)
        for name, player in players.items()
    }
    return play_games(boards, sides, made, games, rules or GameRules(seed=3))
