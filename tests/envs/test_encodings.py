"""Composite observations as vectors: the numbers of gymnasium's flatten, and nothing outside of the space."""

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from marl.envs.encodings import OutsideSpaceError, encoder
from marl.envs.pettingzoo.spaces import observation_reader

SHAPES = st.lists(st.integers(1, 3), max_size=3).map(tuple)
LEAVES = st.one_of(
    st.builds(
        lambda shape, dtype: spaces.Box(-3, 5, shape, dtype),
        SHAPES,
        st.sampled_from([np.float32, np.float64, np.int8, np.int64]),
    ),
    st.builds(lambda shape: spaces.Box(0, 255, shape, np.uint8), SHAPES),
    st.builds(lambda n, start: spaces.Discrete(n, start=start), st.integers(1, 6), st.integers(-4, 4)),
    st.builds(
        lambda nvec, start: spaces.MultiDiscrete(nvec, start=np.full_like(nvec, start)),
        st.lists(st.integers(1, 5), min_size=1, max_size=4).map(np.array),
        st.integers(-3, 3),
    ),
    st.just(spaces.MultiDiscrete(np.array([[2, 3], [4, 1]]))),
    st.builds(spaces.MultiBinary, st.one_of(st.integers(1, 4), st.just((2, 3)))),
)
SPACES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.dictionaries(st.sampled_from("zyxabc"), inner, min_size=1, max_size=3).map(spaces.Dict),
        st.lists(inner, min_size=1, max_size=3).map(spaces.Tuple),
        st.lists(inner, min_size=1, max_size=3).map(spaces.OneOf),
    ),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None)
@given(SPACES, st.integers(0, 2**31))
def test_vectors_are_those_of_gymnasium(space, seed):
    encode = encoder(space, "a")
    space.seed(seed)
    for _ in range(3):
        value = space.sample()
        expected = np.asarray(gymnasium.spaces.flatten(space, value), np.float32)
        found = encode(value)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, expected)


def box(*shape):
    return spaces.Box(-1, 9, shape, np.float32)


@pytest.mark.parametrize(
    ("space", "value", "reason"),
    [
        (spaces.Discrete(5), -1, "-1 is not in Discrete(5)"),
        (spaces.Discrete(5), 5, "5 is not in Discrete(5)"),
        (spaces.Discrete(5, start=2), 1, "1 is not in Discrete(5, start=2)"),
        (spaces.Discrete(5), 1.0, "1.0 is not in"),
        (spaces.Discrete(5), None, "None is not in"),
        (spaces.MultiDiscrete([49, 49, 49]), (0, 56, 24), "(0, 56, 24) is not in MultiDiscrete"),
        (spaces.MultiDiscrete([49, 49]), np.array([-1, 3]), "[-1 3] is not in MultiDiscrete"),
        (spaces.MultiDiscrete([3, 3], start=np.array([2, 2])), np.array([1, 3]), "[1 3] is not in"),
        (spaces.MultiDiscrete([49, 49]), np.array([1, 2, 3]), "shape (3,) instead of (2,)"),
        (spaces.MultiDiscrete([49, 49]), np.array([1.5, 2.0]), "holds float64"),
        (spaces.MultiDiscrete([49, 49]), {"observation": (1, 2)}, "is not in MultiDiscrete"),
        (spaces.MultiBinary(2), np.array([0.0, 0.5]), "is not in MultiBinary(2)"),
        (spaces.MultiBinary(2), np.array([0, -1], np.int8), "is not in MultiBinary(2)"),
        (spaces.MultiBinary(4), np.array([0, 2, -3, 7]), "is not in MultiBinary(4)"),
        (spaces.Dict(own=box(2), other=box(2)), {"own": np.ones(1), "other": np.ones(3)}, "['own']"),
        (spaces.Dict(own=box(2)), {"own": np.ones((2, 1))}, "shape (2, 1) instead of (2,)"),
        (spaces.Dict(own=box(2)), {"own": 1.0}, "shape () instead of (2,)"),
        (spaces.Dict(own=box(2)), {}, "has no entry 'own'"),
        (spaces.Dict(own=box(2)), None, "None has no entry 'own'"),
        (spaces.Dict(own=box(2)), {"own": np.array(["x", "y"])}, "holds <U1"),
        (spaces.Dict(own=box(2)), {"own": [[1], [1, 2]]}, "is not in Box"),
        (spaces.Dict(x=spaces.Tuple((spaces.Discrete(2),))), {"x": (2,)}, "['x'] [0] 2 is not in Discrete(2)"),
        (spaces.Tuple((box(2), box(2))), (np.ones(2),), "is not a tuple of 2"),
        (spaces.Tuple((box(2),)), None, "is not a tuple of 1"),
        (spaces.OneOf([box(2), spaces.Discrete(3)]), (2, 1), "is not in OneOf"),
        (spaces.OneOf([box(2), spaces.Discrete(3)]), (1, 3), "3 is not in Discrete(3)"),
    ],
)
def test_values_outside_their_space_are_refused_by_agent_space_and_value(space, value, reason):
    with pytest.raises(OutsideSpaceError) as caught:
        observation_reader(space, "agent_7").read(value)
    assert "agent_7" in str(caught.value)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_numbers_that_a_box_only_does_not_promise_are_read_as_they_are():
    reader = observation_reader(spaces.Dict(level=spaces.Box(0, 3, (2,), np.int8), on=spaces.Box(0, 1, (), bool)), "a")
    assert reader.read({"level": np.array([0.5, 300.0]), "on": True}).tolist() == [0.5, 300.0, 1.0]


def test_one_choice_may_come_as_an_array_of_one():
    reader = observation_reader(spaces.Discrete(3), "a")
    for value in (1, np.int64(1), np.uint8(1), np.array(1), np.array([1])):
        assert reader.read(value).tolist() == [0.0, 1.0, 0.0]


@pytest.mark.parametrize("space", [spaces.OneOf([spaces.Text(3), box(2)]), spaces.Tuple((spaces.Sequence(box(1)),))])
def test_spaces_of_no_fixed_size_have_no_encoding(space):
    assert encoder(space, "a") is None
