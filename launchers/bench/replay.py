"""``marl bench replay``: the speed of replay inserts and samples, beside bare memory copies of the same size.

The spec is simple_spread's: 3 agents, observations of 18 numbers, 5 actions, a state of 54 numbers. The reference is
measured in the same run: numpy copies, or gathers, records of the same size.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np
import torch

from marl.adders.transitions import TransitionAdder
from marl.launchers.bench.measurements import Measurement
from marl.replay import (
    Priorities,
    PrioritizedSelector,
    Replay,
    Selector,
    TransitionDataset,
    TransitionItems,
    UniformSelector,
)
from marl.replay.rate_limiter import SamplesPerInsert
from marl.specs import AgentSpec, ArraySpec, DiscreteActions, EnvironmentSpec, group_agents
from marl.types import GroupStep, TimeStep


def spread_spec() -> EnvironmentSpec:
    """Makes the spec of ``mpe2.simple_spread_v3`` with three agents."""
    agents = [
        AgentSpec(name=f"agent_{i}", observation=ArraySpec(shape=(18,)), action=DiscreteActions(num_actions=5))
        for i in range(3)
    ]
    return EnvironmentSpec(groups=group_agents(agents), state=ArraySpec(shape=(54,)))


def run(
    *, capacity: int = 500_000, num_envs: int = 64, batch_size: int = 1024, seconds: float = 1.0
) -> Iterator[Measurement]:
    """Measures inserts and samples.

    Args:
        capacity: joint steps stored.
        num_envs: joint steps of an insert.
        batch_size: joint steps of a sample.
        seconds: time of a measurement.

    Yields:
        Measurements; ``replay_adder`` makes items of time steps, ``replay_sample_prioritized`` includes the update of
        priorities, and the reference of memory is the size of the arrays themselves.
    """
    replay = Replay(spread_spec(), TransitionItems(), capacity=capacity, num_envs=num_envs)
    generator = torch.Generator().manual_seed(0)
    item = {
        name: torch.rand((num_envs, *spec.shape), generator=generator).to(spec.dtype)
        for name, spec in replay.layout.fields.items()
    }
    for _ in range(replay.rows):
        replay.insert(item)

    words = replay.layout.words
    store = np.ones((replay.rows, num_envs, words), np.int64)
    row = store[0].copy()

    def copy(step: int) -> None:
        store[step % len(store)] = row

    bare_inserts = _rate(copy, num_envs, seconds)
    yield _measurement("replay_insert", _rate(lambda _: replay.insert(item), num_envs, seconds), bare_inserts)

    adder = TransitionAdder(replay, discount=0.99)
    group = replay.spec.groups[0]
    timestep = TimeStep(
        groups={
            group.name: GroupStep(
                observations=item[f"{group.name}/observations"],
                action_masks=None,
                active=torch.ones(num_envs, 3, dtype=torch.bool),
                rewards=item[f"{group.name}/rewards"],
                terminated=torch.zeros(num_envs, 3, dtype=torch.bool),
                truncated=torch.zeros(num_envs, 3, dtype=torch.bool),
            )
        },
        state=item["state"],
        first=torch.zeros(num_envs, dtype=torch.bool),
        final=None,
    )
    actions = {group.name: item[f"{group.name}/actions"]}
    adder.add_first(timestep)
    yield _measurement(
        "replay_adder", _rate(lambda _: adder.add(actions, {}, timestep), num_envs, seconds), bare_inserts
    )

    flat, out = store.reshape(-1, words), np.empty((batch_size, words), np.int64)
    indices = np.random.default_rng(0).integers(0, len(flat), (256, batch_size))

    def gather(step: int) -> None:
        np.take(flat, indices[step % len(indices)], axis=0, out=out, mode="clip")

    bare_samples = _rate(gather, batch_size, seconds)
    uniform = _dataset(replay, UniformSelector(replay, seed=0), batch_size)
    yield _measurement("replay_sample", _rate(lambda _: uniform.sample(), batch_size, seconds), bare_samples)

    prioritized = _dataset(replay, PrioritizedSelector(replay, seed=0, priorities=Priorities()), batch_size)
    errors = torch.rand(batch_size, generator=generator)

    def sample_and_update(_: int) -> None:
        prioritized.update_priorities(prioritized.sample().indices, errors)

    yield _measurement("replay_sample_prioritized", _rate(sample_and_update, batch_size, seconds), bare_samples)

    stored = capacity * replay.layout.payload_bytes
    yield {
        "name": "replay_memory",
        "value": replay.nbytes,
        "unit": "bytes",
        "reference": stored,
        "ratio": round(replay.nbytes / stored, 4),
    }


def _dataset(replay: Replay, selector: Selector, batch_size: int) -> TransitionDataset:
    limiter = SamplesPerInsert(ratio=1.0, min_size=1, batch_size=batch_size, insert_size=replay.global_num_envs)
    return TransitionDataset(replay, selector, limiter, batch_size=batch_size)


def _rate(call: Callable[[int], object], items: int, seconds: float) -> float:
    """Measures items a second: the best of five intervals, since other programs only ever slow it down."""
    best, step = 0.0, 0
    for _ in range(5):
        start, first = time.perf_counter(), step
        while (elapsed := time.perf_counter() - start) < seconds / 5:
            for _ in range(16):
                call(step)
                step += 1
        best = max(best, (step - first) * items / elapsed)
    return best


def _measurement(name: str, value: float, reference: float) -> Measurement:
    return {
        "name": name,
        "value": round(value),
        "unit": "joint steps/s",
        "reference": round(reference),
        "ratio": round(value / reference, 4),
    }
