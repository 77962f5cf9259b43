"""Minibatches of a rollout: cut at random, evenly on every rank, and the same for any number of ranks."""

from __future__ import annotations

import torch
from torch import Tensor

from marl.random_streams import Stream


def assign(stream: Stream, draw: int, *, units: int, first_env: int, num_envs: int, minibatches: int) -> Tensor:
    """Assigns each unit of each environment to a minibatch.

    A unit is one time step, or one chunk of them. Each environment deals its units out to the minibatches in random
    order, going on where the one before it stopped. So minibatches differ by at most one unit, over all environments as
    well as over those of any rank, and what they hold depends on global indices only.

    Args:
        stream: random numbers for this rank's environments.
        draw: number of this draw: a new one each pass.
        units: units of one environment, U.
        first_env: global index of this rank's first environment.
        num_envs: environments on this rank, E.
        minibatches: M.

    Returns:
        (U, E) int64 in [0, M).
    """
    order = stream.words(draw, units)[0].t().argsort(dim=0, stable=True)
    ranks = order.argsort(dim=0)
    dealt = torch.arange(first_env, first_env + num_envs, device=ranks.device) * units
    return (ranks + dealt) % minibatches
