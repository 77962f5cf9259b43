"""Games between players that do not learn, in environments that begin episodes by themselves, over all ranks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from marl.acting.episodes import EpisodeTracker
from marl.core import Communicator, EnvironmentFactory, EnvironmentRequest, VectorEnvironment
from marl.counters import MAX_STEPS
from marl.distributed.communicators import split
from marl.games.sides import Sides
from marl.progress import Progress, unwatched
from marl.resources.closing import close_all
from marl.self_play.opponents import Policies
from marl.self_play.seats import SeatedPlayers
from marl.specs import DiscreteActions, EnvironmentSpec, Sharing
from marl.types import TimeStep


def play_matches(
    seating: Tensor,
    policies: Callable[[int], Policies],
    environment: EnvironmentFactory,
    *,
    teams: Mapping[str, str] | None = None,
    num_envs: int,
    seed: int,
    purpose: str,
    communicator: Communicator,
    sharing: Sharing = "spaces",
    template: Policies,
    device: torch.device | str = "cpu",
    max_steps: int = MAX_STEPS,
    progress: Progress = unwatched,
) -> tuple[Tensor, Tensor, Tensor]:
    """Plays G games between players that do not learn, spread over environments and ranks. Collective.

    Game g is the (g // num_envs)th episode of environment g % num_envs, so neither the games' lengths nor the number of
    ranks have a part in the results.

    Args:
        seating: (G, S) int64, the player on each side in each game; the same on all ranks.
        policies: a function from player to policies.
        environment: makes the environments.
        teams: see Sides.
        num_envs: environments over all ranks, at most.
        seed: of games and actions.
        purpose: part of the seeds.
        communicator: the ranks.
        sharing: as the policies were trained.
        template: see SeatedPlayers.
        device: where policies compute.
        max_steps: a game that has not ended by then is a draw, and so are the others that its environment was to
            play, since episodes begin anew by their own end only.
        progress: told of this rank's games at every step.

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
        sides = Sides(envs.spec, teams)
        seated = SeatedPlayers(
            envs.spec,
            sides,
            policies,
            template,
            num_envs=count,
            seed=seed,
            purpose=purpose,
            first_env=first,
            device=device,
        )
        told = partial(progress, f"games to {purpose}")
        _play_share(results, seating, envs, sides, seated, first, total, max_steps, told)
        close_all([envs], "the environments of games", quiet=first > 0)
    communicator.all_reduce(results)
    return results[:, :-2], results[:, -2], results[:, -1] > 0


def _play_share(
    results: Tensor,
    seating: Tensor,
    envs: VectorEnvironment,
    sides: Sides,
    seated: SeatedPlayers,
    first: int,
    total: int,
    max_steps: int,
    progress: Callable[[int, int], object],
) -> None:
    """Plays the games of one rank's environments, the first of which is number ``first`` of ``total``.

    Writes into the rows of ``results``, (G, S + 2): returns of the sides, steps, and 1 where the limit was reached.
    """
    games, count = len(seating), envs.num_envs
    tracker = EpisodeTracker(envs.spec, count)
    done = torch.zeros(count, dtype=torch.int64)
    seated.players = seating[first : first + count].clone()
    whole = missing = sum(len(range(first + env, games, total)) for env in range(count))
    timestep = envs.reset()
    steps = 0
    while missing:
        timestep = envs.step(seated.act(timestep, _legal_actions(timestep, envs.spec)))
        steps += 1
        progress(whole - missing, whole)
        ended = tracker.track(timestep)
        if steps >= max_steps:
            for env in tracker.cut(max_steps).envs.tolist():
                # None, if it had played all its games and went on for nothing.
                left = torch.arange(min(int(done[env]) * total + first + env, games), games, total)
                results[left, -2:] = torch.tensor([float(max_steps), 1.0], dtype=torch.float64)
                missing -= len(left)
                done[env] += len(left)
        if ended is None:
            continue
        numbers = done[ended.envs] * total + first + ended.envs
        wanted = numbers < games
        outcomes = torch.cat((sides.returns(ended.returns), ended.lengths.unsqueeze(1)), dim=1)
        results[numbers[wanted], :-1] = outcomes[wanted]
        missing -= int(wanted.sum())
        done[ended.envs] += 1
        # An environment that has played all its games goes on, for nothing, until the others have.
        seated.players[ended.envs] = seating[(numbers + total) % games]


def _legal_actions(timestep: TimeStep, spec: EnvironmentSpec) -> dict[str, Tensor]:
    """Actions for agents that need not act: any, but legal ones where there are masks."""
    actions = {}
    for group in spec.groups:
        step = timestep.groups[group.name]
        if step.action_masks is None or not isinstance(group.action, DiscreteActions):
            array = group.action.array
            actions[group.name] = torch.zeros((*step.active.shape, *array.shape), dtype=array.dtype)
        else:
            actions[group.name] = step.action_masks.int().argmax(-1)
    return actions
