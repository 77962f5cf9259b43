"""Steps of three agents, written down in advance, and replay that is filled with them."""

import numpy as np
import torch

from marl.replay import (
    Replay,
    ReplayConfig,
    SequenceDataset,
    TransitionDataset,
    TransitionItems,
)
from marl.replay.selectors import ranges
from marl.specs import ArraySpec, ContinuousActions, DiscreteActions, EnvironmentSpec, GroupSpec
from marl.types import FinalGroupStep, FinalStep, GroupStep, TimeStep

GAMMA = 0.9


SPEC = EnvironmentSpec(
    groups=(
        GroupSpec(
            name="left",
            agents=("left_0", "left_1"),
            observation=ArraySpec(shape=(4,)),
            action=DiscreteActions(num_actions=3),
            masked=True,
        ),
        GroupSpec(
            name="right",
            agents=("right",),
            observation=ArraySpec(shape=(2, 2, 1), dtype=torch.uint8),
            action=ContinuousActions(low=(-1.0, -1.0), high=(1.0, 1.0)),
        ),
    ),
    state=ArraySpec(shape=(3,)),
)


GROUPS = {"left": (0, 1), "right": (2,)}


class Trace:
    """What happens in one copy, written down in advance: three agents that die, leave, or are cut off.

    Row k holds what is seen and done at step k, and what comes of it: rewards, endings, and the last observations
    where the episode ended.
    """

    def __init__(self, copy, steps, *, max_length=6, mishaps=0.1):
        random = np.random.default_rng(1000 + copy)
        self.rows = []
        episode, time = 0, 0
        alive = np.ones(3, bool)
        seen = self.look(copy, episode, time, random)
        for _ in range(steps):
            row = {"seen": seen, "active": alive.copy(), "first": time == 0}
            row["actions"] = random.integers(0, 3, 3), random.uniform(-1, 1, 2).astype(np.float32)
            row["rewards"] = np.where(alive, random.normal(size=3), 0.0).astype(np.float32)
            terminated = alive & (random.random(3) < mishaps)
            truncated = alive & (random.random(3) < mishaps / 2)
            time += 1
            limit = time == max_length
            everybody = random.random() < mishaps
            if everybody:
                terminated, truncated = alive.copy(), np.zeros(3, bool)
            elif limit:
                truncated = alive.copy()
            # Those who left keep their last observation.
            after = self.look(copy, episode, time, random)
            left = ~alive
            after = {name: np.where(spread(left, name, a), seen[name], a) for name, a in after.items()}
            alive = alive & ~terminated & ~truncated
            row |= {"terminated": terminated, "truncated": truncated, "ended": not alive.any(), "after": after}
            row["after_active"] = alive.copy()
            if row["ended"]:
                row["after_active"] = truncated & ~terminated
                episode, time, alive = episode + 1, 0, np.ones(3, bool)
                after = self.look(copy, episode, time, random)
            self.rows.append(row)
            seen = after
        self.newest = {"seen": seen, "active": alive.copy(), "first": time == 0}

    @staticmethod
    def look(copy, episode, time, random):
        left = np.array([(copy, episode, time, agent) for agent in range(2)], np.float32)
        right = np.array([copy, episode, time, 2], np.uint8).reshape(1, 2, 2, 1)
        masks = random.random((2, 3)) < 0.5
        masks[:, 0] |= ~masks.any(axis=1)
        return {"left": left, "right": right, "masks": masks, "state": np.array((copy, episode, time), np.float32)}

    def row(self, k):
        return self.rows[k] if k < len(self.rows) else self.newest


def spread(left, name, array):
    """Who left, by the axes of an array; the state goes on."""
    chosen = {"left": left[:2], "masks": left[:2], "right": left[2:], "state": np.zeros(array.shape[0], bool)}[name]
    return chosen.reshape(-1, *(1,) * (array.ndim - 1))


class Script:
    """The traces of some copies as time steps; tensors are overwritten with nonsense after use."""

    def __init__(self, first_env, num_envs, steps, **arguments):
        self.traces = [Trace(copy, steps, **arguments) for copy in range(first_env, first_env + num_envs)]

    def timestep(self, k):
        rows = [trace.row(k) for trace in self.traces]
        before = [trace.rows[k - 1] if k else None for trace in self.traces]
        ended = [copy for copy, row in enumerate(before) if row is not None and row["ended"]]

        def pack(values):
            return torch.from_numpy(np.stack(values))

        def outcome(name, agents):
            zero = np.zeros(len(agents), np.float32 if name == "rewards" else bool)
            return pack([zero if row is None else row[name][list(agents)] for row in before])

        groups = {}
        for name, agents in GROUPS.items():
            groups[name] = GroupStep(
                observations=pack([row["seen"][name] for row in rows]),
                action_masks=pack([row["seen"]["masks"] for row in rows]) if name == "left" else None,
                active=pack([row["active"][list(agents)] for row in rows]),
                rewards=outcome("rewards", agents),
                terminated=outcome("terminated", agents),
                truncated=outcome("truncated", agents),
            )
        final = None
        if ended:
            last = [before[copy]["after"] for copy in ended]
            final = FinalStep(
                envs=torch.tensor(ended),
                groups={
                    name: FinalGroupStep(
                        observations=pack([after[name] for after in last]),
                        action_masks=pack([after["masks"] for after in last]) if name == "left" else None,
                    )
                    for name in GROUPS
                },
                state=pack([after["state"] for after in last]),
            )
        return TimeStep(
            groups=groups,
            state=pack([row["seen"]["state"] for row in rows]),
            first=torch.tensor([row["first"] for row in rows]),
            final=final,
        )

    def actions(self, k):
        rows = [trace.rows[k] for trace in self.traces]
        left = torch.from_numpy(np.stack([row["actions"][0][:2] for row in rows]))
        right = torch.from_numpy(np.stack([row["actions"][1][None] for row in rows]))
        return {"left": left, "right": right}

    def play(self, adder, start, stop, each=lambda: None):
        if start == 0:
            adder.add_first(self.timestep(0))
        for k in range(start, stop):
            timestep = self.timestep(k + 1)
            adder.add(self.actions(k), {}, timestep)
            for group in timestep.groups.values():
                group.observations.fill_(77)
                group.active.fill_(False)
            each()


def transitions(num_envs, *, capacity=10_000, n_step=1, spec=SPEC, **arguments):
    return Replay(spec, TransitionItems(n_step=n_step), capacity=capacity, num_envs=num_envs, **arguments)


def dataset_of(replay, *, batch_size, ratio=1.0, min_size=1, seed=0, priorities=None, selector=None):
    config = ReplayConfig(batch_size=batch_size, samples_per_insert=ratio, min_size=min_size, priorities=priorities)
    kind = TransitionDataset if replay.in_step else SequenceDataset
    if selector is None:
        selector = config.make_selector(replay, seed=seed)
    return kind(replay, selector, config.make_limiter(replay), batch_size=batch_size)


def everything(replay):
    """All stored items, oldest first, copy by copy: fields by name, and the copies."""
    replay.sync_counts()
    stored, counts = replay.stored_of_envs, replay.counts
    envs, numbers = ranges(counts - stored, counts)
    out = torch.empty((len(envs), replay.layout.words), dtype=torch.int64)
    replay.gather(envs, numbers, out.numpy())
    return {name: field.numpy() for name, field in replay.layout.tensors(out).items()}, envs, numbers
