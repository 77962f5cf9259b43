import numpy as np
import pytest
import torch
from scripted_steps import GAMMA, Script, everything, transitions

from marl.adders.transitions import TransitionAdder
from marl.errors import InputError


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


def test_records_take_hardly_more_memory_than_their_arrays():
    replay = transitions(8, capacity=1000)
    assert replay.nbytes <= 1.1 * replay.capacity * replay.layout.payload_bytes


def test_capacity_beyond_memory_is_refused_with_what_it_needs():
    with pytest.raises(InputError, match=r"needs [\d,.]+ GiB .* are free"):
        transitions(2, capacity=10**13)


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
