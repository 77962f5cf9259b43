"""Games of a league's players that do not learn: evaluation against random moves, and between snapshots."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from marl.acting.evaluation import Evaluation
from marl.core import Communicator
from marl.experiments.experiment import Experiment
from marl.games.sides import Sides
from marl.league.league import League
from marl.self_play.matches import play_games
from marl.self_play.opponents import RANDOM, Policies


@dataclass(frozen=True, slots=True, kw_only=True)
class GameEvaluation(Evaluation):
    """Games of one player, greedy, against random opponents; complete on all ranks."""

    names: tuple[str, ...]
    """Of the S sides."""
    sides: Tensor
    """(N,) int64: the player's side."""
    points: Tensor
    """(N,) float64: 1 for a win, 0.5 for a draw; the mean over opponents where there are several."""

    def summary(self) -> dict[str, float]:
        """Returns the mean return of the player's side with its 95 % interval, and points per game on each side."""
        metrics = super(GameEvaluation, self).summary()
        for number, name in enumerate(self.names):
            points = self.points[self.sides == number]
            if len(points):
                metrics[f"evaluation/score/{name}"] = float(points.mean())
                metrics[f"evaluation/losses/{name}"] = float((points < 0.5).sum())
        return metrics | {"evaluation/score": float(self.points.mean())}


def evaluate_player(
    name: str, player: Experiment, sides: Sides, side_of: Mapping[str, str] | None, communicator: Communicator
) -> GameEvaluation:
    """Plays greedy games of a player against random opponents, on each side in turn. Collective.

    Args:
        name: the player's.
        player: its experiment.
        sides: of the game.
        side_of: the side of each agent; see Sides.
        communicator: the ranks.
    """
    config = player.config
    games, num_sides = max(1, config.evaluation_episodes), len(sides)
    own_sides = torch.arange(games) % num_sides
    seating = torch.full((games, num_sides), RANDOM)
    seating[torch.arange(games), own_sides] = 0
    returns, lengths, stopped = play_games(
        seating,
        lambda _: player.greedy,
        config.environment,
        side_of=side_of,
        num_envs=config.num_envs,
        seed=config.seed,
        purpose="evaluate",
        communicator=communicator,
        sharing=config.builder.sharing,
        like=player.greedy,
        max_steps=config.evaluation_max_steps,
    )
    own = returns.gather(1, own_sides.unsqueeze(1))
    points = (1 + (own - returns).sign()).sum(1) - 1
    return GameEvaluation(
        agents=(name,),
        returns=own,
        lengths=lengths.long(),
        names=sides.names,
        sides=own_sides,
        stopped=int(stopped.sum()),
        points=points / (2 * (num_sides - 1)),
    )


def measure_newest_snapshot(
    league: League,
    policies: Callable[[int], Policies],
    player: Experiment,
    games: int,
    *,
    side_of: Mapping[str, str] | None,
    seed: int,
    communicator: Communicator,
) -> None:
    """Adds games of the newest snapshot against every earlier one; the same on all ranks. Collective.

    Args:
        league: plays, and counts the games.
        policies: returns the policies of a snapshot by number.
        player: an experiment with the environment to play in.
        games: against each earlier snapshot, half from each seat, rounded up.
        side_of: the side of each agent; see Sides.
        seed: of games and actions.
        communicator: the ranks.
    """
    newest = len(league.players) - 1
    others = torch.arange(len(league.learners), newest)
    if not games or not others.numel():
        return
    pairs = torch.stack((torch.full_like(others, newest), others), dim=1)
    seating = torch.cat((pairs, pairs.flip(1))).repeat(-(-games // 2), 1)
    config = player.config
    returns, _, _ = play_games(
        seating,
        policies,
        config.environment,
        side_of=side_of,
        num_envs=config.num_envs,
        seed=seed,
        purpose="measure",
        communicator=communicator,
        sharing=config.builder.sharing,
        like=policies(newest),
        max_steps=config.evaluation_max_steps,
    )
    league.add_games(seating[:, 0].numpy(), seating[:, 1].numpy(), returns.numpy())
