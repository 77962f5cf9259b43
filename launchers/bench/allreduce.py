"""``marl bench allreduce``: the cost of a learner's one collective, against bare mpi4py and one call a parameter."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from marl.core import Communicator
from marl.distributed.flat_parameters import FlatParameters
from marl.errors import InputError
from marl.launchers.bench.measurements import Measurement
from marl.launchers.mpi.communicator import MPICommunicator

_SHAPES: Final = {"mappo 3 groups 64x64": (3, 64), "mappo shared 64x64": (1, 64), "mappo shared 256x256": (1, 256)}
"""Number of groups (3: each of simple_spread's agents has its own policy) and width of the hidden layers."""
_WARM_UP: Final = 20


def _network(inputs: int, width: int, outputs: int) -> nn.Module:
    layers: list[nn.Module] = [nn.LayerNorm(inputs)]
    for size in (inputs, width):
        layers += [nn.Linear(size, width), nn.Tanh(), nn.LayerNorm(width)]
    return nn.Sequential(*layers, nn.Linear(width, outputs))


def _segments(groups: int, width: int) -> dict[str, list[nn.Parameter]]:
    """Makes actors and critics for simple_spread: observations of 18, a global state of 54, 5 actions."""
    segments = {}
    for group in range(groups):
        segments[f"group{group}/actor"] = list(_network(18, width, 5).parameters())
        segments[f"group{group}/critic"] = list(_network(54, width, 1).parameters())
    return segments


def _median_seconds(
    communicator: MPICommunicator, calls: dict[str, Callable[[], None]], repeats: int
) -> dict[str, float]:
    """Measures the calls in turns, so that a slow moment of the machine affects all of them."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(_WARM_UP + repeats):
        for name, call in calls.items():
            # Ranks begin together, so that the time does not include waiting for a late rank.
            communicator.comm.Barrier()
            begin = time.perf_counter()
            call()
            if repeat >= _WARM_UP:
                times[name].append(time.perf_counter() - begin)
    medians = torch.tensor([median(seconds) for seconds in times.values()], dtype=torch.float64)
    # The slowest rank's median: all others wait for it.
    communicator.all_reduce(medians, "max")
    return dict(zip(times, medians.tolist(), strict=True))


def run(communicator: Communicator, *, repeats: int = 300) -> Iterator[Measurement]:
    """Measures FlatParameters.all_reduce for typical MAPPO networks.

    Args:
        communicator: two or more ranks; all must iterate to the end.
        repeats: the number of calls that are timed; medians are compared.

    Yields:
        Three measurements for each size of networks: the fused all-reduce against
        mpi4py's Allreduce on an equal buffer (ratio = fused / bare); one call a parameter against the fused one
        (ratio = how many times slower), as it is usually written, with ``gradient.numpy()`` and mpi4py, and with
        ``Communicator.all_reduce``, which costs less a call.

    Raises:
        InputError: there is only one rank.
    """
    if not isinstance(communicator, MPICommunicator) or communicator.size < 2:
        raise InputError("there is nothing to reduce on one rank; use `marl bench allreduce --ranks 2`")
    for name, (groups, width) in _SHAPES.items():
        segments = _segments(groups, width)
        flat = FlatParameters(segments, tail=4)
        flat.gradients.zero_()
        bare = np.zeros(flat.gradients.numel() + flat.tail.numel(), dtype=np.float32)
        gradients = [torch.zeros_like(parameter) for parameters in segments.values() for parameter in parameters]
        yield from _compare(communicator, name, flat, bare, gradients, repeats)


def _compare(
    communicator: MPICommunicator,
    name: str,
    flat: FlatParameters,
    bare: np.ndarray[Any, np.dtype[np.float32]],
    gradients: list[torch.Tensor],
    repeats: int,
) -> Iterator[Measurement]:
    def single() -> None:
        for gradient in gradients:
            communicator.comm.Allreduce(communicator.in_place, gradient.numpy())

    def single_fast() -> None:
        for gradient in gradients:
            communicator.all_reduce(gradient)

    calls: dict[str, Callable[[], None]] = {
        "fused": lambda: flat.all_reduce(communicator),
        "bare": lambda: communicator.comm.Allreduce(communicator.in_place, bare),
        "one mpi4py call": single,
        "one of our calls": single_fast,
    }
    seconds = _median_seconds(communicator, calls, repeats)
    size = f"{name}, {communicator.size} ranks, {bare.nbytes / 1000:.0f} KB"
    yield {
        "name": f"allreduce/fused ({size})",
        "value": seconds["fused"] * 1e6,
        "unit": "us",
        "reference": seconds["bare"] * 1e6,
        "ratio": seconds["fused"] / seconds["bare"],
    }
    for call in ("one mpi4py call", "one of our calls"):
        yield {
            "name": f"allreduce/{call} a parameter ({size}, {len(gradients)} tensors)",
            "value": seconds[call] * 1e6,
            "unit": "us",
            "reference": seconds["fused"] * 1e6,
            "ratio": seconds[call] / seconds["fused"],
        }
