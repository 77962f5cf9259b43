from collections import Counter

import numpy as np
import torch
from scripted_steps import GAMMA, SPEC, Script, dataset_of, transitions

from marl.adders.sequences import SequenceAdder
from marl.adders.transitions import TransitionAdder
from marl.replay import (
    FifoSelector,
    Priorities,
    PrioritizedSelector,
    Replay,
    SequenceItems,
    TransitionDataset,
)


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


def test_items_in_which_nobody_acted_have_no_part_in_weights_and_are_hardly_drawn():
    replay = transitions(1, capacity=64)
    fields = {name: torch.zeros(1, *field.shape, dtype=field.dtype) for name, field in replay.layout.fields.items()}

    def insert(acted: bool) -> None:
        replay.insert(fields | {"left/active": torch.full_like(fields["left/active"], acted)})

    config = Priorities(alpha=1.0, beta=1.0, epsilon=1e-6)
    dataset = dataset_of(replay, batch_size=8, priorities=config)
    for number in range(32):
        insert(acted=number % 2 == 0)
    for _ in range(50):
        sample = dataset.sample()
        # Every other item is an unfinished turn, of which learners report an error of 0.
        even = sample.indices[:, 1] % 2 == 0
        assert even.all()
        dataset.update_priorities(sample.indices, torch.where(even, 0.5, 0.0))
    assert dataset.sample().weights.tolist() == [1.0] * 8
    # What is saved comes back the same.
    again = dataset_of(replay, batch_size=8, priorities=config)
    again.selector.load_env_state_dict(dataset.selector.env_state_dict())
    assert again.sample().weights.tolist() == [1.0] * 8
    for selector in (dataset.selector, again.selector):
        selector.update(np.array([(0, 1)]), np.zeros(1))
        assert selector._minima.roots.min() > 0.4


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
