"""Matches."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from marl.acting.episodes import EpisodeTracker
from marl.acting.evaluation import MAX_STEPS
from marl.core import Communicator, EnvironmentFactory, EnvironmentRequest
from marl.distributed.communicators import split
from marl.games.sides import Sides
from marl.self_play.opponents import Policies
from marl.self_play.seats import SeatedPlayers
from marl.specs import DiscreteActions, EnvironmentSpec, Sharing
from marl.types import TimeStep


def play_games(
    seating: Tensor,
    policies: Callable[[int], Policies],
    environment: EnvironmentFactory,
    *,
    side_of: Mapping[str, str] | None = None,
    num_envs: int,
    seed: int,
    purpose: str,
    communicator: Communicator,
    sharing: Sharing = "spaces",
    like: Policies,
    device: torch.device | str = "cpu",
    max_steps: int = MAX_STEPS,
) -> tuple[Tensor, Tensor, Tensor]:
    """Plays G games between players that do not learn, spread over copies and ranks. Collective.

    Game g is the (g // num_envs)th episode of copy g % num_envs, so neither the games' lengths nor the number of
    ranks have a part in the results.

    Args:
        seating: (G, S) int64, who sits on each side in each game; the same on all ranks.
        policies: gives a player's policies.
        environment: makes the copies.
        side_of: see Sides.
        num_envs: copies over all ranks, at most.
        seed: of games and actions.
        purpose: part of the seeds.
        communicator: the ranks.
        sharing: as the policies were trained.
        like: see SeatedPlayers.
        device: where policies compute.
        max_steps: a game that has not ended by then is a draw, and so are the others that its copy was to play, since
            episodes begin anew by their own end only.

    Returns:
        (G, S) float64, each side's undiscounted return, zeros where the step limit made it a draw; (G,) float64
        environment steps; and (G,) bool, where the limit was reached. On all ranks.
    """
    games, num_sides = seating.shape
    results = torch.zeros(games, num_sides + 2, dtype=torch.float64)
    total = min(num_envs, games)
    first, count = split(total, communicator.size, communicator.rank)
    if count:
        request = EnvironmentRequest(
            num_envs=count, first_env=first, seed=seed, purpose=purpose, sharing=sharing, with_state=False
        )
        envs = environment(request)
        sides = Sides(envs.spec, side_of)
        tracker = EpisodeTracker(envs.spec, count)
        seated = SeatedPlayers(
            envs.spec,
            sides,
            policies,
            like,
            num_envs=count,
            seed=seed,
            purpose=purpose,
            first_env=first,
            device=device,
        )
        done = torch.zeros(count, dtype=torch.int64)
        seated.players = seating[first : first + count].clone()
        missing = sum(len(range(first + copy, games, total)) for copy in range(count))
        timestep = envs.reset()
        blank = {
            group.name: torch.zeros((count, group.size, *group.action.array.shape), dtype=group.action.array.dtype)
            for group in envs.spec.groups
        }
        steps = 0
        while missing:
            timestep = envs.step(seated.act(timestep, _legal(blank, timestep, envs.spec)))
            steps += 1
            ended = tracker.track(timestep)
            if steps >= max_steps:
                for copy in tracker.cut(max_steps).envs.tolist():
                    # None, if it had played all its games and went on for nothing.
                    left = torch.arange(min(int(done[copy]) * total + first + copy, games), games, total)
                    results[left, -2:] = torch.tensor([float(max_steps), 1.0], dtype=torch.float64)
                    missing -= len(left)
                    done[copy] += len(left)
            if ended is None:
                continue
            numbers = done[ended.envs] * total + first + ended.envs
            wanted = numbers < games
            figures = torch.cat((sides.returns(ended.returns), ended.lengths.unsqueeze(1)), dim=1)
            results[numbers[wanted], :-1] = figures[wanted]
            missing -= int(wanted.sum())
            done[ended.envs] += 1
            # Who has played all its games goes on, for nothing, until the others have.
            seated.players[ended.envs] = seating[(numbers + total) % games]
        envs.close()
    communicator.all_reduce(results)
    return results[:, :-2], results[:, -2], results[:, -1] > 0


def _legal(blank: dict[str, Tensor], timestep: TimeStep, spec: EnvironmentSpec) -> dict[str, Tensor]:
    """Actions for agents that need not act: any, but legal ones where there are masks."""
    actions = {}
    for group in spec.groups:
        masks = timestep.groups[group.name].action_masks
        if masks is None or not isinstance(group.action, DiscreteActions):
            actions[group.name] = blank[group.name]
        else:
            actions[group.name] = masks.int().argmax(-1)
    return actions
