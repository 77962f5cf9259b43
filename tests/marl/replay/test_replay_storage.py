from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.utils.rnn import pad_sequence

from marl.adders.factory import make_replay_adder
from marl.adders.sequences import SequenceAdder
from marl.adders.transitions import TransitionAdder
from marl.errors import InputError
from marl.replay import (
    FifoSelector,
    Priorities,
    PrioritizedSelector,
    Replay,
    ReplayConfig,
    SequenceDataset,
    SequenceItems,
    TransitionDataset,
    TransitionItems,
    UniformSelector,
    available_memory,
)
from marl.replay.rate_limiter import SamplesPerInsert
from marl.replay.selectors import ranges
from marl.replay.sum_tree import SegmentTrees
from marl.specs import ArraySpec, ContinuousActions, DiscreteActions, EnvironmentSpec, GroupSpec
from marl.testing.threads import run_on_threads
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


# ------------------------------------------------------------------------------------------- transitions


def expected_transition(trace, k, n, agent):
    """One agent's n-step transition from row k: reward, discount, who acts next, and the row that holds its end."""
    if not trace.rows[k]["active"][agent]:
        return 0.0, 0.0, None, None
    total, factor = 0.0, 1.0
    for m in range(n):
        row = trace.rows[k + m]
        total += factor * row["rewards"][agent]
        factor *= GAMMA
        if row["terminated"][agent]:
            return total, 0.0, False, k + m
        if row["truncated"][agent]:
            return total, factor, row["ended"], k + m
        assert not row["ended"]
    return total, factor, row["after_active"][agent], k + m


def expected_team(trace, k, n):
    factor = 1.0
    for m in range(n):
        row = trace.rows[k + m]
        factor *= GAMMA
        if row["ended"]:
            return factor * (row["truncated"] & ~row["terminated"]).any(), row["after"]["state"]
    return factor, row["after"]["state"]


@pytest.mark.parametrize("mishaps", [0.0, 0.1, 0.4])
@pytest.mark.parametrize("n", [1, 2, 3, 8])
def test_transitions_are_those_that_the_definition_gives(n, mishaps):
    steps, num_envs = 60, 5
    script = Script(0, num_envs, steps, mishaps=mishaps)
    replay = transitions(num_envs, n_step=n)
    script.play(TransitionAdder(replay, discount=GAMMA), 0, steps)
    fields, envs, numbers = everything(replay)
    assert Counter(envs.tolist()) == dict.fromkeys(range(num_envs), steps - n + 1)
    ends = 0
    for i, (copy, k) in enumerate(zip(envs, numbers, strict=True)):
        trace = script.traces[copy]
        row = trace.rows[k]
        for name, agents in GROUPS.items():
            np.testing.assert_array_equal(fields[f"{name}/observations"][i], row["seen"][name])
            for place, agent in enumerate(agents):
                reward, discount, acts, end = expected_transition(trace, k, n, agent)
                assert fields[f"{name}/active"][i, place] == row["active"][agent]
                assert fields[f"{name}/rewards"][i, place] == pytest.approx(reward, abs=1e-5)
                assert fields[f"{name}/discounts"][i, place] == pytest.approx(discount, abs=1e-5)
                if end is None:
                    continue
                ends += end < k + n - 1
                after = trace.rows[end]["after"]
                assert fields[f"{name}/next_active"][i, place] == acts
                np.testing.assert_array_equal(fields[f"{name}/next_observations"][i, place], after[name][place])
                if name == "left":
                    np.testing.assert_array_equal(fields["left/next_action_masks"][i, place], after["masks"][place])
        np.testing.assert_array_equal(fields["left/action_masks"][i], row["seen"]["masks"])
        np.testing.assert_array_equal(fields["left/actions"][i], row["actions"][0][:2])
        np.testing.assert_array_equal(fields["right/actions"][i, 0], row["actions"][1])
        discount, state = expected_team(trace, k, n)
        assert fields["discounts"][i] == pytest.approx(discount, abs=1e-6)
        np.testing.assert_array_equal(fields["state"][i], row["seen"]["state"])
        np.testing.assert_array_equal(fields["next_state"][i], state)
    assert (ends > 0) == (n > 1)


def test_truncated_episode_is_bootstrapped_with_its_own_last_observation():
    replay = transitions(1)
    Script(0, 1, 6, max_length=3, mishaps=0.0).play(TransitionAdder(replay, discount=GAMMA), 0, 6)
    fields, *_ = everything(replay)
    # Observations are (copy, episode, time, agent).
    np.testing.assert_array_equal(fields["left/next_observations"][2, 0], (0, 0, 3, 0))
    np.testing.assert_array_equal(fields["left/observations"][3, 0], (0, 1, 0, 0))
    np.testing.assert_allclose(fields["left/discounts"], GAMMA)
    assert fields["left/next_active"].all()


def test_a_second_first_time_step_drops_windows_that_are_being_filled():
    replay = transitions(2, n_step=3)
    adder = TransitionAdder(replay, discount=GAMMA)
    script = Script(0, 2, 10)
    script.play(adder, 0, 2)
    script.play(adder, 0, 4)
    fields, _, numbers = everything(replay)
    assert numbers.tolist() == [0, 1, 0, 1]
    np.testing.assert_array_equal(fields["state"][0], script.traces[0].rows[0]["seen"]["state"])


# --------------------------------------------------------------------------------------------- sequences


@pytest.mark.parametrize(
    "items",
    [
        SequenceItems(length=6),
        SequenceItems(length=9),
        SequenceItems(length=1),
        SequenceItems(length=4, burn_in=1),
        SequenceItems(length=4, burn_in=3),
        SequenceItems(length=4, period=2),
        SequenceItems(length=5, period=1, burn_in=2),
    ],
)
def test_sequences_are_pieces_of_episodes(items):
    steps, num_envs = 60, 4
    script = Script(0, num_envs, steps)
    replay = Replay(SPEC, items, capacity=10_000, num_envs=num_envs)
    script.play(SequenceAdder(replay, discount=GAMMA), 0, steps)
    fields, envs, _ = everything(replay)
    learned, whole = Counter(), 0
    row_of = {tuple(row["seen"]["state"]): (trace, k) for trace in script.traces for k, row in enumerate(trace.rows)}
    for i, copy in enumerate(envs):
        trace, start = row_of[tuple(fields["state"][i, 0])]
        assert trace is script.traces[copy]
        length = int(fields["valid"][i].sum())
        assert length >= 1
        assert fields["valid"][i, :length].all()
        from_start = trace.rows[start]["first"]
        whole += bool(from_start and trace.rows[start + length - 1]["ended"])
        for t in range(length):
            row = trace.rows[start + t]
            assert row["ended"] <= (t == length - 1)
            assert fields["learn"][i, t] == (from_start or t >= items.burn_in)
            learned[copy, start + t] += int(fields["learn"][i, t])
            check_sequence_step(fields, i, t, row)
        assert length == items.length or trace.rows[start + length - 1]["ended"]
        assert not fields["learn"][i, length:].any()
        assert not fields["left/rewards"][i, length:].any()
        assert not fields["left/active"][i, length + 1 :].any()
        assert fields["left/action_masks"][i, length + 1 :].all()
    if items.period is None:
        assert set(learned.values()) == {1}
    # Everything is there but the unfinished ends.
    for copy in range(num_envs):
        last = max(k for c, k in learned if c == copy)
        assert last >= steps - 1 - items.length
        assert all(learned[copy, k] >= 1 for k in range(last + 1))
    if items.length >= 6:
        assert whole == len(envs)


def check_sequence_step(fields, i, t, row):
    for name, agents in GROUPS.items():
        np.testing.assert_array_equal(fields[f"{name}/observations"][i, t], row["seen"][name])
        np.testing.assert_array_equal(fields[f"{name}/observations"][i, t + 1], row["after"][name])
        np.testing.assert_array_equal(fields[f"{name}/active"][i, t], row["active"][list(agents)])
        np.testing.assert_array_equal(fields[f"{name}/active"][i, t + 1], row["after_active"][list(agents)])
        np.testing.assert_array_equal(fields[f"{name}/rewards"][i, t], row["rewards"][list(agents)])
        counts = row["active"] & ~row["terminated"]
        np.testing.assert_allclose(fields[f"{name}/discounts"][i, t], GAMMA * counts[list(agents)])
    np.testing.assert_array_equal(fields["left/action_masks"][i, t], row["seen"]["masks"])
    np.testing.assert_array_equal(fields["left/action_masks"][i, t + 1], row["after"]["masks"])
    np.testing.assert_array_equal(fields["left/actions"][i, t], row["actions"][0][:2])
    np.testing.assert_array_equal(fields["state"][i, t + 1], row["after"]["state"])
    remains = not row["ended"] or (row["truncated"] & ~row["terminated"]).any()
    assert fields["discounts"][i, t] == pytest.approx(GAMMA * remains)


def test_sampled_sequences_have_time_first():
    replay = Replay(SPEC, SequenceItems(length=5), capacity=1000, num_envs=3)
    Script(0, 3, 40).play(make_replay_adder(replay, discount=GAMMA), 0, 40)
    dataset = dataset_of(replay, batch_size=7)
    assert dataset.ready()
    sample = dataset.sample()
    assert sample.groups["left"].observations.shape == (6, 7, 2, 4)
    assert sample.groups["right"].actions.shape == (5, 7, 1, 2)
    assert sample.groups["right"].action_masks is None
    assert sample.state.shape == (6, 7, 3)
    assert sample.valid.shape == sample.learn.shape == sample.discounts.shape == (5, 7)
    assert sample.valid[0].all()


# --------------------------------------------------------------------------------------------- selection


def test_uniform_sampling_is_uniform_over_what_is_stored_and_nothing_else():
    replay = transitions(4, capacity=23)  # 5 rows of 4 copies
    script = Script(0, 4, 40)
    script.play(TransitionAdder(replay, discount=GAMMA), 0, 17)
    dataset = dataset_of(replay, batch_size=20)
    draws = Counter()
    for _ in range(500):
        draws.update(map(tuple, dataset.sample().indices.tolist()))
    assert set(draws) == {(copy, number) for copy in range(4) for number in range(12, 17)}
    # Chi-squared with 19 degrees of freedom: 43.8 is passed once in a thousand.
    assert sum((count - 500) ** 2 / 500 for count in draws.values()) < 43.8


def test_copies_with_more_episodes_are_sampled_in_proportion():
    replay = Replay(SPEC, SequenceItems(length=6), capacity=100_000, num_envs=2)
    script = Script(0, 2, 200, mishaps=0.3)
    script.play(SequenceAdder(replay, discount=GAMMA), 0, 200)
    dataset = dataset_of(replay, batch_size=64)
    assert dataset.ready()
    draws = np.concatenate([dataset.sample().indices.numpy()[:, 0] for _ in range(100)])
    share = replay.counts[0] / replay.counts.sum()
    assert abs((draws == 0).mean() - share) < 4 * np.sqrt(0.25 / len(draws))


def test_fifo_gives_every_item_once_and_in_order():
    replay = transitions(3, capacity=30)
    dataset = TransitionDataset(replay, FifoSelector(replay), None, batch_size=7)
    taken = []

    def drain():
        while dataset.ready():
            taken.extend(map(tuple, dataset.sample().indices.flip(1).tolist()))

    Script(0, 3, 50).play(TransitionAdder(replay, discount=GAMMA), 0, 50, drain)
    assert taken == [(number, copy) for number in range(50) for copy in range(3)][: len(taken)]
    assert len(taken) > 150 - 7


@given(st.integers(1, 70), st.integers(1, 3), st.data())
@settings(max_examples=50)
def test_trees_agree_with_plain_sums_minima_and_searches(leaves, count, data):
    sums, minima = SegmentTrees(count, leaves, "sum"), SegmentTrees(count, leaves, "min")
    plain = np.zeros((count, leaves))
    random = np.random.default_rng(data.draw(st.integers(0, 1000)))
    for _ in range(4):
        trees, places = random.integers(0, count, 9), random.integers(0, leaves, 9)
        values = np.where(random.random(9) < 0.2, 0.0, random.integers(0, 100, 9).astype(float))
        for tree, place, value in zip(trees, places, values, strict=True):
            plain[tree, place] = value
        sums.set(trees, places.copy(), values)
        minima.set(trees, places.copy(), np.where(values > 0, values, np.inf))
    np.testing.assert_array_equal(sums.leaves, plain)
    np.testing.assert_array_equal(sums.roots, plain.sum(axis=1))
    np.testing.assert_array_equal(minima.roots, np.where(plain > 0, plain, np.inf).min(axis=1))
    for tree in range(count):
        if total := plain[tree].sum():
            values = random.uniform(0, total, 20)
            found = sums.find(np.full(20, tree), values)
            np.testing.assert_array_equal(found, np.searchsorted(np.cumsum(plain[tree]), values, side="right"))
            assert plain[tree, sums.find(np.array([tree]), np.array([total * 2]))] > 0
    copied = SegmentTrees(count, leaves, "sum")
    copied.set_all(plain)
    np.testing.assert_array_equal(copied._nodes, sums._nodes)


def test_priorities_decide_how_often_items_are_drawn_and_weights_make_up_for_it():
    replay = transitions(2, capacity=16)
    Script(0, 2, 8).play(TransitionAdder(replay, discount=GAMMA), 0, 8)
    config = Priorities(alpha=0.5, beta=1.0, final_beta=1.0, epsilon=1e-12)
    dataset = dataset_of(replay, batch_size=16, priorities=config)
    indices = np.array([(copy, number) for copy in range(2) for number in range(8)])
    errors = np.arange(1.0, 17.0)
    dataset.sample()
    dataset.update_priorities(torch.from_numpy(indices), torch.from_numpy(-errors))
    draws = np.zeros(16)
    for _ in range(400):
        sample = dataset.sample()
        places = sample.indices[:, 0] * 8 + sample.indices[:, 1]
        np.testing.assert_allclose(sample.weights, errors[places] ** -0.5, rtol=1e-5)
        np.add.at(draws, places.numpy(), 1)
    probabilities = np.sqrt(errors) / np.sqrt(errors).sum()
    # Strata only make it more even than independent draws.
    assert (np.abs(draws - 6400 * probabilities) < 4 * np.sqrt(6400 * probabilities)).all()


def test_new_items_have_the_largest_priority_and_overwritten_ones_keep_nothing():
    replay = transitions(1, capacity=4)
    script = Script(0, 1, 20)
    adder = TransitionAdder(replay, discount=GAMMA)
    script.play(adder, 0, 4)
    selector = PrioritizedSelector(replay, seed=0, priorities=Priorities(alpha=1.0, epsilon=1e-12))
    dataset = dataset_of(replay, batch_size=4, selector=selector)
    dataset.sample()
    old = torch.tensor([(0, k) for k in range(4)])
    dataset.update_priorities(old, torch.tensor([1e-3, 1e-3, 1e-3, 50.0]))
    dataset.sample()
    script.play(adder, 4, 6)
    dataset.sample()
    np.testing.assert_allclose(selector._sums.leaves, [[50.0, 50.0, 1e-3, 50.0]], rtol=1e-6)
    # Items 0 and 1 are gone; what their error was no longer counts. What is not finite never does.
    dataset.update_priorities(old, torch.tensor([7.0, 7.0, float("nan"), 3.0]))
    np.testing.assert_allclose(selector._sums.leaves, [[50.0, 50.0, 1e-3, 3.0]], rtol=1e-6)


def test_beta_goes_from_its_first_to_its_final_value():
    replay = transitions(1, capacity=2)
    Script(0, 1, 2).play(TransitionAdder(replay, discount=GAMMA), 0, 2)
    config = Priorities(alpha=1.0, beta=0.0, final_beta=1.0, anneal_batches=2, epsilon=1e-12)
    dataset = dataset_of(replay, batch_size=2, priorities=config)
    dataset.sample()
    dataset.update_priorities(torch.tensor([(0, 0), (0, 1)]), torch.tensor([1.0, 4.0]))
    for beta in (0.5, 1.0, 1.0):
        sample = dataset.sample()
        np.testing.assert_allclose(sample.weights, np.where(sample.indices[:, 1] == 0, 1.0, 0.25**beta), rtol=1e-5)


# ------------------------------------------------------------------------------------------------- ranks

KINDS = {
    "transitions": (TransitionItems(n_step=3), None),
    "prioritized": (TransitionItems(), Priorities()),
    "episodes": (SequenceItems(length=6), None),
    "prioritized sequences": (SequenceItems(length=4, burn_in=1), Priorities(beta=0.7)),
    "fifo": (TransitionItems(), "fifo"),
    "fifo sequences": (SequenceItems(length=3, period=2), "fifo"),
}
GLOBAL_ENVS, SPLITS = 6, {1: (6,), 2: (3, 3), 3: (1, 3, 2)}


def build(kind, rank, size, communicator, *, save=False):
    items, choice = KINDS[kind]
    num_envs, first = SPLITS[size][rank], sum(SPLITS[size][:rank])
    replay = Replay(
        SPEC,
        items,
        capacity=120,
        num_envs=num_envs,
        first_env=first,
        global_num_envs=GLOBAL_ENVS,
        communicator=communicator,
        save=save,
    )
    if choice == "fifo":
        make = TransitionDataset if replay.in_step else SequenceDataset
        dataset = make(replay, FifoSelector(replay), None, batch_size=16)
    else:
        dataset = dataset_of(replay, batch_size=16, ratio=2.5, min_size=40, seed=3, priorities=choice)
    return replay, make_replay_adder(replay, discount=GAMMA), dataset, Script(first, num_envs, 90, mishaps=0.1)


def learn(replay, dataset, log, step):
    while dataset.ready():
        sample = dataset.sample()
        assert sample.global_batch_size == 16
        state = sample.state if replay.in_step else sample.state[0]
        for i, place in enumerate(sample.positions.tolist()):
            log[step, dataset.samples, place] = (*state[i].tolist(), float(sample.weights[i]))
        # Errors that depend on the item and on the time alone.
        dataset.update_priorities(sample.indices, (state * torch.tensor([1.0, 3.0, 7.0])).sum(1).cos() + step / 30)


def run_script(kind, size, communicator, start=0, stop=90, saved=None, save=False):
    rank = 0 if communicator is None else communicator.rank
    replay, adder, dataset, script = build(kind, rank, size, communicator, save=save)
    if saved is not None:
        shared, rows = saved
        envs = slice(replay.first_env, replay.first_env + replay.num_envs)
        dataset.load_state_dict(shared)
        dataset.load_env_state_dict({name: tensor[envs] for name, tensor in rows["dataset"].items()})
        adder.load_env_state_dict({name: tensor[envs] for name, tensor in rows["adder"].items()})
        adder.add_first(script.timestep(start))
    log, steps = {}, iter(range(start, stop))
    script.play(adder, start, stop, lambda: learn(replay, dataset, log, next(steps)))
    return log, dataset, adder


def joined(parts):
    """Rows of all ranks; those with fewer columns are padded with zeros, as in checkpoints."""
    if parts[0].dim() == 1:
        return torch.cat(parts)
    return pad_sequence([row for part in parts for row in part], batch_first=True)


@pytest.mark.parametrize("kind", KINDS)
def test_ranks_together_draw_what_one_rank_draws(kind):
    expected, *_ = run_script(kind, 1, None)
    assert len(expected) >= 16 * 10
    for size in (2, 3):
        logs = [
            log
            for log, *_ in run_on_threads(size, lambda communicator, size=size: run_script(kind, size, communicator))
        ]
        assert sum(map(len, logs)) == len(expected)
        assert {place: item for log in logs for place, item in log.items()} == expected


@pytest.mark.parametrize("kind", KINDS)
def test_saved_replay_goes_on_as_if_nothing_had_happened_on_another_number_of_ranks(kind):
    expected, *_ = run_script(kind, 1, None)
    parts = run_on_threads(2, lambda communicator: run_script(kind, 2, communicator, stop=50, save=True))
    shared = parts[0][1].state_dict()
    for name, tensor in parts[1][1].state_dict().items():
        assert torch.equal(shared[name], tensor)
    rows = {}
    for name, place in (("dataset", 1), ("adder", 2)):
        states = [part[place].env_state_dict() for part in parts]
        rows[name] = {key: joined([state[key] for state in states]) for key in states[0]}
    logs = [part[0] for part in parts]
    for size in (1, 3):
        rest = run_on_threads(
            size,
            lambda communicator, size=size: run_script(
                kind, size, communicator, start=50, saved=(shared, rows), save=True
            ),
        )
        assert {p: item for log in [*logs, *(part[0] for part in rest)] for p, item in log.items()} == expected


def test_a_run_resumed_without_its_records_fills_replay_anew_and_repeats_no_batch():
    _, dataset, adder = run_script("transitions", 1, None, stop=50)
    assert dataset.env_state_dict() == {}
    assert adder.env_state_dict() == {}
    _, adder, resumed, script = build("transitions", 0, 1, None)
    resumed.load_state_dict(dataset.state_dict())
    assert not resumed.refills
    resumed.load_env_state_dict({})
    assert resumed.refills
    adder.load_env_state_dict({})
    adder.add_first(script.timestep(50))
    script.play(adder, 50, 54, lambda: None)
    assert not resumed.ready()
    script.play(adder, 54, 60, lambda: None)
    assert resumed.ready()
    assert resumed.samples == 0
    assert resumed._draws == dataset._draws > 0


def test_saved_records_of_another_capacity_are_refused():
    replay = transitions(2, capacity=20, save=True)
    with pytest.raises(ValueError, match="capacity"):
        transitions(2, capacity=30).load_env_state_dict(replay.env_state_dict())


def test_rows_that_were_never_written_are_not_saved():
    replay = transitions(2, capacity=2000, save=True)
    assert replay.env_state_dict()["records"].shape[:2] == (2, 1)
    Script(0, 2, 9).play(TransitionAdder(replay, discount=GAMMA), 0, 7)
    saved = replay.env_state_dict()
    assert saved["records"].shape[:2] == (2, 7)
    again = transitions(2, capacity=2000)
    again.load_env_state_dict(saved)
    for ours, theirs in zip(everything(again)[0].values(), everything(replay)[0].values(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


# ------------------------------------------------------------------------------------------- wrong input


def test_records_take_hardly_more_memory_than_their_arrays():
    replay = transitions(8, capacity=1000)
    assert replay.nbytes <= 1.1 * replay.capacity * replay.layout.payload_bytes


def test_capacity_beyond_memory_is_refused_with_what_it_needs():
    assert available_memory() > 0
    with pytest.raises(InputError, match=r"needs [\d,.]+ GiB .* are free"):
        transitions(2, capacity=10**13)


def test_nothing_is_sampled_before_a_whole_batch_is_stored():
    replay = transitions(2)
    dataset = dataset_of(replay, batch_size=10)
    readiness = []
    script = Script(0, 2, 6)
    script.play(TransitionAdder(replay, discount=GAMMA), 0, 4, lambda: readiness.append(dataset.ready()))
    assert readiness == [False] * 4
    with pytest.raises(ValueError, match="batch of 10 was asked of 8"):
        dataset.sample()


@pytest.mark.parametrize(
    "make",
    [
        lambda: transitions(4, capacity=3),
        lambda: transitions(1, n_step=2, spec=EnvironmentSpec(groups=SPEC.groups, turn_based=True)),
        lambda: TransitionItems(n_step=0),
        lambda: SequenceItems(length=0),
        lambda: SequenceItems(length=4, period=5),
        lambda: SequenceItems(length=4, period=3, burn_in=2),
        lambda: SequenceItems(length=4, burn_in=4),
        lambda: Priorities(alpha=-1.0),
        lambda: Priorities(beta=1.5),
        lambda: TransitionAdder(transitions(1), discount=1.5),
        lambda: dataset_of(transitions(1, capacity=10), batch_size=11),
        lambda: dataset_of(transitions(1, capacity=10), batch_size=5, min_size=11),
        lambda: dataset_of(transitions(1, capacity=10), batch_size=5, ratio=0.0),
        lambda: (lambda r: TransitionDataset(r, UniformSelector(r, seed=0), None, batch_size=1))(transitions(1)),
        lambda: (lambda r: TransitionDataset(r, FifoSelector(r), None, batch_size=9))(transitions(2, capacity=10)),
        lambda: dataset_of((r := transitions(1)), batch_size=1, selector=FifoSelector(r)),
    ],
)
def test_choices_that_cannot_work_are_refused_in_one_line(make):
    with pytest.raises(InputError) as error:
        make()
    assert "\n" not in str(error.value)


def test_complete_items_can_be_inserted_without_an_adder():
    replay = transitions(3, capacity=30)
    random = torch.Generator().manual_seed(0)
    items = [
        {
            name: (torch.rand((3, *field.shape), generator=random) * 3).to(field.dtype)
            for name, field in replay.layout.fields.items()
        }
        for _ in range(4)
    ]
    for item in items:
        replay.insert(item)
    fields, envs, numbers = everything(replay)
    for name, values in fields.items():
        expected = [items[number][name][copy].numpy() for copy, number in zip(envs, numbers, strict=True)]
        np.testing.assert_array_equal(values, expected)


def test_limiter_of_another_batch_size_is_refused():
    replay = transitions(2)
    limiter = SamplesPerInsert(ratio=1.0, min_size=1, batch_size=4, insert_size=2)
    with pytest.raises(ValueError, match="limiter"):
        TransitionDataset(replay, UniformSelector(replay, seed=0), limiter, batch_size=8)
