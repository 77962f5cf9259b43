"""A tournament of classes of your own: who blocks, who plays at random, and what that is worth in Elo.

``marl tournament classic/tictactoe-v3 --players tournament:Blocker random`` does the same from this folder, with runs
of ``marl train`` and snapshots of leagues among the players, on any number of ranks.
"""

import numpy as np

from marl.launchers.main import main

GAMES = 200
LINES = [(0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6)]


class Blocker:
    """Wins where it can, blocks where it must, and else takes the first free field."""

    def act(self, agent, observation, action_mask):
        """Chooses one of the legal actions."""
        planes = np.asarray(observation).reshape(9, 2)
        for side in (0, 1):  # its own pieces first: to win is better than to block
            for line in LINES:
                free = [field for field in line if action_mask[field]]
                if len(free) == 1 and sum(planes[field, side] for field in line) == 2:
                    return free[0]
        return int(np.flatnonzero(action_mask)[0])


class First:
    """Takes the first free field."""

    def act(self, agent, observation, action_mask):
        """Chooses one of the legal actions."""
        return int(np.flatnonzero(action_mask)[0])


if __name__ == "__main__":
    players = ["blocker=tournament:Blocker", "first=tournament:First", "random"]
    raise SystemExit(
        main(["tournament", "classic/tictactoe-v3", "--players", *players, "--games", str(GAMES), "--out", "arena"])
    )
