import pytest
import torch

from marl.states import flatten_state, unflatten_state


def test_states_of_parts_are_joined_and_taken_apart():
    parts = {"learner": {"policy.0.bias": torch.ones(1), "step": torch.tensor(1)}, "actor": {"x": torch.zeros(2)}}
    flat = flatten_state(parts)
    assert list(flat) == ["learner.policy.0.bias", "learner.step", "actor.x"]
    assert unflatten_state(flat) == parts
    assert list(flatten_state({"copies": {"environment": {"a": torch.ones(1)}}})) == ["copies.environment.a"]


@pytest.mark.parametrize("name", ["robot.1", "", ".", "a%2Eb", "%00", "100%", "a/b c", "('red', 0)", "ä"])
def test_parts_may_have_any_name_that_users_give_to_agents(name):
    parts = {name: {"w.0": torch.ones(1)}, "x": {"w.0": torch.zeros(1)}}
    assert unflatten_state(flatten_state(parts)) == parts
    (nested,) = unflatten_state(flatten_state({"envs": parts})).values()
    assert unflatten_state(nested) == parts


def test_names_that_could_not_be_taken_apart_are_refused():
    with pytest.raises(ValueError, match=r"two tensors are called a\.b\.c"):
        flatten_state({"a": {"b": {"c": torch.ones(1)}, "b.c": torch.ones(1)}})
    with pytest.raises(ValueError, match="PART"):
        unflatten_state({"lonely": torch.ones(1)})
