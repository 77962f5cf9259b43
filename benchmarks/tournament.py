"""Games a second of ``marl tournament`` against a plain loop over ``env.last()`` with a batch-1 network.

    python benchmarks/tournament.py [--env classic/connect_four-v3] [--games 256] [--rounds 3]

Both play the same two untrained networks (MAPPO's defaults, greedy) after six random moves, on one thread. One JSON
object a line, as ``marl bench`` prints them: the medians over rounds in which both take turns, by processor time.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import numpy as np
import torch

from marl.algorithms.mappo import MAPPO
from marl.envs.factory import make_constructor
from marl.envs.pettingzoo.arena import PettingZooArena
from marl.games.batch import play_games
from marl.games.game import Game, GameRules
from marl.games.policy_players import PolicyPlayer
from marl.games.sides import Sides
from marl.launchers.bench.measurements import compare
from marl.types import GroupStep

OPENING_MOVES = 6


def plain_loop(environment: Any, policies: list[Any], games: int, seed: int) -> int:
    """Plays one game after the other, as PettingZoo's tutorials do; returns the number of moves."""
    random, moves = np.random.default_rng(seed), 0
    agents = environment.possible_agents
    nothing = torch.zeros(1, 2, dtype=torch.bool)
    first = torch.zeros(1, dtype=torch.bool)
    for game in range(games):
        environment.reset(seed=seed + game)
        for move, agent in enumerate(environment.agent_iter()):
            observation, _, terminated, truncated, _ = environment.last()
            action = None
            if not (terminated or truncated):
                mask = observation["action_mask"]
                if move < OPENING_MOVES:
                    action = int(random.choice(np.flatnonzero(mask)))
                else:
                    # Both agents' rows, since the networks tell agents apart by number.
                    row = agents.index(agent)
                    observed = torch.as_tensor(observation["observation"], dtype=torch.float32)
                    step = GroupStep(
                        observations=observed.expand(1, 2, *observed.shape),
                        action_masks=torch.as_tensor(mask, dtype=torch.bool).expand(1, 2, -1),
                        active=nothing,
                        rewards=nothing,
                        terminated=nothing,
                        truncated=nothing,
                    )
                    with torch.inference_mode():
                        action = int(policies[(row + game) % 2].act(step, first, None, None).actions[0, row])
                moves += 1
            environment.step(action)
    return moves


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--env", default="classic/connect_four-v3")
    parser.add_argument("--games", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    make, builder = make_constructor(options.env), MAPPO()
    arena, environment = PettingZooArena(make, 64), make()
    sides = Sides(arena.spec)
    every = [builder.make_policies(arena.spec, builder.make_networks(arena.spec), evaluation=True) for _ in range(2)]
    (group,) = arena.spec.groups
    alone = [policies[group.name] for policies in every]
    players = {name: PolicyPlayer(arena.spec, policies) for name, policies in zip("ab", every, strict=True)}
    rates: dict[str, list[float]] = {"games": [], "plain games": [], "moves": [], "plain moves": []}
    for number in range(options.rounds):
        start, moves = time.process_time(), 0
        for first in range(0, options.games, 64):
            numbers = range(first, min(first + 64, options.games))
            games = [Game(index=n, pair=n // 2, players=("a", "b") if n % 2 == 0 else ("b", "a")) for n in numbers]
            played = play_games(
                arena, sides, players, games, GameRules(seed=number, random_opening_moves=OPENING_MOVES)
            )
            moves += sum(game.length for game in played)
        seconds = time.process_time() - start
        rates["games"].append(options.games / seconds)
        rates["moves"].append(moves / seconds)
        few = max(1, options.games // 4)
        start = time.process_time()
        moves = plain_loop(environment, alone, few, number)
        seconds = time.process_time() - start
        rates["plain games"].append(few / seconds)
        rates["plain moves"].append(moves / seconds)
    for what in ("games", "moves"):
        line = compare(f"tournament/{what}", rates[what], rates[f"plain {what}"], f"{what}/s")
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
