import pytest
import torch

from marl.states import flatten_state, unflatten_state


def test_states_of_parts_are_joined_and_taken_apart():
    parts = {"learner": {"policy.0.bias": torch.ones(1), "step": torch.tensor(1)}, "actor": {"x": torch.zeros(2)}}
    flat = flatten_state(parts)
    assert list(flat) == ["learner.policy.0.bias", "learner.step", "actor.x"]
    assert unflatten_state(flat) == parts
    assert list(flatten_state({"copies": {"environment": {"a": torch.ones(1)}}})) == ["copies.environment.a"]


def test_names_that_could_not_be_taken_apart_are_refused():
    with pytest.raises(ValueError, match="no dot"):
        flatten_state({"a.b": {"c": torch.ones(1)}})
    with pytest.raises(ValueError, match=r"two tensors are called a\.b\.c"):
        flatten_state({"a": {"b": {"c": torch.ones(1)}, "b.c": torch.ones(1)}})
    with pytest.raises(ValueError, match="PART"):
        unflatten_state({"lonely": torch.ones(1)})
