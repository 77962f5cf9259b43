"""Learned best responses to policies that do not change: their gains bound exploitability from below."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from marl.builders import RunContext
from marl.core import Actor, Adder, Communicator
from marl.errors import InputError
from marl.experiments.config import ExperimentConfig
from marl.experiments.experiment import Experiment
from marl.games.sides import Sides
from marl.policy import Policy
from marl.progress import Progress, unwatched
from marl.self_play.actor import make_self_play_actor
from marl.self_play.opponents import LEARNER, Opponents, Policies
from marl.specs import EnvironmentSpec
from marl.types import Floats


class FixedOpponents(Opponents):
    """The same policies on all sides but the learner's, in every episode; see Opponents."""

    def __init__(self, policies: Policies, side: int, num_sides: int) -> None:
        self._policies = policies
        self._seating = torch.where(torch.arange(num_sides) == side, LEARNER, 0)

    def draw(self, envs: Tensor, episodes: Tensor) -> Tensor:
        return self._seating.expand(len(envs), -1)

    def policies(self, player: int) -> Policies:
        return self._policies

    def record(self, players: Tensor, returns: Tensor) -> None:
        """Does nothing: results are measured elsewhere."""


def learn_response(
    config: ExperimentConfig,
    policies: Policies,
    side: int,
    *,
    teams: Mapping[str, str] | None = None,
    communicator: Communicator | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    progress: Progress = unwatched,
) -> tuple[EnvironmentSpec, Policies]:
    """Learns to play one side against policies that do not change.

    Args:
        config: of the learner; its builder shares policies among agents as ``policies`` do.
        policies: one a group, on all other sides.
        side: the learner's, by number.
        teams: the team of each agent; see ``Sides``.
        communicator: the ranks; this process alone by default.
        should_stop: see ``Experiment.run``.
        progress: told of environment steps at every update.

    Returns:
        The spec, and the learner's greedy policies, one a group.

    Raises:
        InputError: the algorithm cannot learn here, or its groups are not those of the policies.
    """

    def make(spec: EnvironmentSpec, own: Mapping[str, Policy], context: RunContext, adder: Adder) -> Actor:
        if set(policies) != {group.name for group in spec.groups}:
            raise InputError("a best response shares policies among agents as the policies that it responds to")
        sides = Sides(spec, teams)
        return make_self_play_actor(
            spec,
            own,
            adder,
            sides,
            FixedOpponents(policies, side, len(sides)),
            num_envs=context.num_envs,
            seed=context.seed,
            first_env=context.first_env,
            device=context.device,
            template=policies,
        )

    experiment = Experiment(config, communicator, make)
    try:
        steps = experiment.counter

        def tell() -> None:
            progress(f"steps of the response on side {side + 1}", steps.env_steps, config.steps)

        experiment.run(should_stop=should_stop, at_boundary=tell)
        return experiment.spec, experiment.greedy
    finally:
        experiment.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Gains:
    """Gains of responses over the policies themselves, with 95 % intervals over the games; none is negative."""

    gains: Floats
    """(S,) of each side: the return of its response less that of the policies, everybody else being the policies. It
    is 0 where the response is worse than the policies, since those are a response too."""
    intervals: Floats
    """(S, 2)."""
    nash_conv: float
    """The sum of the gains."""
    nash_conv_interval: tuple[float, float]
    """Of the sum; sides without a gain count from 0 to the upper end of their own interval."""


def measure_gains(own: Floats, responses: Floats) -> Gains:
    """Gains by games in pairs: the same deal among the policies alone, and with a response on each side in turn.

    Args:
        own: (G, S) returns of the sides where all are the policies.
        responses: (G, S) returns of the response on each side, of the same G deals.

    Raises:
        ValueError: the shapes differ, or there are fewer than two deals.
    """
    if own.shape != responses.shape or len(own) < 2:
        raise ValueError("own and responses are returns of the same two deals or more")
    differences = responses - own
    middle, width = differences.mean(0), _half_width(differences)
    intervals: Floats = np.maximum(np.stack((middle - width, middle + width), axis=1), 0.0)
    gaining = middle > 0.0
    total, spread = float(middle[gaining].sum()), float(_half_width(differences[:, gaining].sum(1)))
    # What a side without a gain may gain after all, it may in any deal: the worst case is added.
    beyond = float(intervals[~gaining, 1].sum())
    return Gains(
        gains=np.maximum(middle, 0.0),
        intervals=intervals,
        nash_conv=total,
        nash_conv_interval=(max(0.0, total - spread), total + spread + beyond),
    )


def _half_width(values: Floats) -> Floats:
    """Half the 95 % interval of the mean of G rows, (G, ...) to (...)."""
    width: Floats = np.asarray(1.96 * values.std(0, ddof=1) / np.sqrt(len(values)))
    return width
