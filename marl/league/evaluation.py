"""Games of a league's players that do not learn: evaluation against random moves, and between snapshots."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from marl.acting.evaluation import Evaluation
from marl.acting.metric_names import agent_label
from marl.acting.outcomes import Outcomes
from marl.core import Communicator
from marl.experiments.experiment import Experiment
from marl.games.sides import Sides
from marl.league.league import League
from marl.progress import Progress, unwatched
from marl.self_play.matches import play_matches
from marl.self_play.opponents import RANDOM, Policies


@dataclass(frozen=True, slots=True, kw_only=True)
class GameEvaluation(Evaluation):
    """Games of one player against random opponents; complete on all ranks."""

    games: Outcomes
    """The player's side and all sides' returns, game by game."""

    @property
    def points(self) -> Tensor:
        """(N,) float64: 1 for a win, 0.5 for a draw; the mean over opponents where there are several."""
        returns = self.games.returns
        assert self.games.played is not None
        own = returns.gather(1, self.games.played.unsqueeze(1))
        return ((1 + (own - returns).sign()).sum(1) - 1) / (2 * (returns.shape[1] - 1))

    def _metrics(self, prefix: str) -> dict[str, float]:
        """The mean return of the player's side with its 95 % interval, and points per game on each side."""
        metrics = super(GameEvaluation, self)._metrics(prefix)
        assert self.games.played is not None
        for number, name in enumerate(self.games.sides):
            points = self.points[self.games.played == number]
            if len(points):
                metrics[f"{prefix}score/{agent_label(name)}"] = float(points.mean())
                metrics[f"{prefix}losses/{agent_label(name)}"] = float((points < 0.5).sum())
        rates = {f"{prefix}random/{key}": value for key, value in self.games.summary("").items()}
        return metrics | rates | {f"{prefix}score": float(self.points.mean())}


def evaluate_player(
    name: str,
    player: Experiment,
    sides: Sides,
    teams: Mapping[str, str] | None,
    communicator: Communicator,
    *,
    final: bool = True,
    progress: Progress = unwatched,
) -> GameEvaluation:
    """Plays games of a player against random opponents, on each side in turn, as many in each mode. Collective.

    Args:
        name: the player's.
        player: its experiment.
        sides: of the game.
        teams: the team of each agent; see Sides.
        communicator: the ranks.
        final: all modes; else the headline's only.
        progress: told of this rank's games.
    """
    config = player.config
    games, num_sides = max(1, config.evaluation_episodes), len(sides)
    own_sides = torch.arange(games) % num_sides
    seating = torch.full((games, num_sides), RANDOM)
    seating[torch.arange(games), own_sides] = 0
    found = []
    for mode in player.modes if final else player.modes[:1]:
        policies = player.greedy if mode == "greedy" else player.sampled
        returns, lengths, stopped = play_matches(
            seating,
            lambda _, policies=policies: policies,  # type: ignore[misc]
            config.environment,
            teams=teams,
            num_envs=config.num_envs,
            seed=config.seed,
            purpose="evaluate" if mode == "greedy" else "evaluate/sampled",
            communicator=communicator,
            sharing=config.builder.sharing,
            template=policies,
            max_steps=config.evaluation_max_steps,
            progress=progress,
        )
        found.append(
            GameEvaluation(
                agents=(name,),
                returns=returns.gather(1, own_sides.unsqueeze(1)),
                lengths=lengths.long(),
                stopped=int(stopped.sum()),
                mode=mode,
                games=Outcomes(sides=sides.names, returns=returns, played=own_sides),
            )
        )
    headline, *others = found
    return replace(headline, sampled=others[0]) if others else headline


def measure_newest_snapshot(
    league: League,
    policies: Callable[[int], Policies],
    player: Experiment,
    games: int,
    *,
    teams: Mapping[str, str] | None,
    seed: int,
    communicator: Communicator,
    progress: Progress = unwatched,
) -> None:
    """Adds games of the newest snapshot against every earlier one; the same on all ranks. Collective.

    Args:
        league: plays, and counts the games.
        policies: returns the policies of a snapshot by number.
        player: an experiment with the environment to play in.
        games: against each earlier snapshot, half from each seat, rounded up.
        teams: the team of each agent; see Sides.
        seed: of games and actions.
        communicator: the ranks.
        progress: told of this rank's games.
    """
    newest = len(league.players) - 1
    others = torch.arange(len(league.learners), newest)
    if not games or not others.numel():
        return
    pairs = torch.stack((torch.full_like(others, newest), others), dim=1)
    seating = torch.cat((pairs, pairs.flip(1))).repeat(-(-games // 2), 1)
    config = player.config
    returns, _, _ = play_matches(
        seating,
        policies,
        config.environment,
        teams=teams,
        num_envs=config.num_envs,
        seed=seed,
        purpose="measure",
        communicator=communicator,
        sharing=config.builder.sharing,
        template=policies(newest),
        max_steps=config.evaluation_max_steps,
        progress=progress,
    )
    league.add_games(seating[:, 0].numpy(), seating[:, 1].numpy(), returns.numpy())
