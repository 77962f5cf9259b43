import numpy as np
import pytest
import torch
from gymnasium import spaces

from marl.envs.pettingzoo.spaces import action_writer, mask_of, observation_reader
from marl.specs import ArraySpec, ContinuousActions, DiscreteActions, MultiDiscreteActions, SpecError


def test_images_of_uint8_stay_and_every_other_box_becomes_float32():
    assert observation_reader(spaces.Box(0, 255, (8, 6, 3), np.uint8), "a").spec == ArraySpec(
        shape=(8, 6, 3), dtype=torch.uint8
    )
    for shape, dtype in [
        ((4,), np.float64),
        ((3, 3, 2), np.int8),
        ((7,), np.uint8),
        ((2, 5), np.float32),
        ((), np.float32),
    ]:
        assert observation_reader(spaces.Box(0, 1, shape, dtype), "a").spec == ArraySpec(shape=shape)


def test_composite_observations_become_one_vector():
    space = spaces.Dict({"x": spaces.Discrete(3), "y": spaces.Tuple((spaces.Box(0, 1, (2,)), spaces.MultiBinary(2)))})
    reader = observation_reader(space, "a")
    assert reader.spec == ArraySpec(shape=(7,))
    value = {"x": 1, "y": (np.array([0.25, 0.5], np.float32), np.array([1, 0], np.int8))}
    assert reader.read(value).tolist() == [0, 1, 0, 0.25, 0.5, 1, 0]
    assert observation_reader(spaces.Discrete(4, start=2), "a").read(3).tolist() == [0, 1, 0, 0]


def test_an_observation_beside_an_action_mask_is_read_without_it():
    mask = spaces.Box(0, 1, (4,), np.int8)
    reader = observation_reader(spaces.Dict(observation=spaces.Box(0, 1, (2,)), action_mask=mask), "a")
    assert reader.masked
    assert reader.spec == ArraySpec(shape=(2,))
    assert reader.read({"observation": np.ones(2), "action_mask": np.ones(4)}).tolist() == [1, 1]
    several = spaces.Dict(card=spaces.Discrete(2), pot=spaces.Box(0, 9, (1,)), action_mask=mask)
    reader = observation_reader(several, "a")
    assert reader.masked
    assert reader.read({"card": 1, "pot": np.array([3.0]), "action_mask": np.ones(4)}).tolist() == [0, 1, 3]


@pytest.mark.parametrize(
    "space",
    [
        spaces.Text(5),
        spaces.Sequence(spaces.Discrete(2)),
        spaces.Graph(spaces.Discrete(2), None),
        spaces.Box(0, 1, (0,)),
    ],
)
def test_observations_without_a_fixed_size_are_refused_by_name_of_the_agent(space):
    with pytest.raises(SpecError, match="observation space of agent_7"):
        observation_reader(space, "agent_7")


@pytest.mark.parametrize(
    "space",
    [
        spaces.Text(5),
        spaces.Tuple((spaces.Discrete(2),)),
        spaces.Dict(a=spaces.Discrete(2)),
        spaces.Box(0, 5, (2,), np.int32),
        spaces.Box(0, 1, (0,)),
    ],
)
def test_other_action_spaces_are_refused_by_name_of_the_agent(space):
    with pytest.raises(SpecError, match="action space of agent_7"):
        action_writer(space, "agent_7")


def test_discrete_actions_count_from_the_start_of_the_space_and_are_numbers_of_its_dtype():
    writer = action_writer(spaces.Discrete(3, start=-1), "a")
    assert writer.spec == DiscreteActions(num_actions=3)
    written = writer.write(np.array([0, 1, 2]))
    assert written == [-1, 0, 1]
    assert [action.item() for action in written] == [-1, 0, 1]
    assert all(writer.space.contains(action) for action in written)


def test_multi_discrete_actions_keep_the_shape_of_the_space():
    space = spaces.MultiDiscrete([[2, 3], [4, 5]], start=[[0, 1], [0, 1]])
    writer = action_writer(space, "a")
    assert writer.spec == MultiDiscreteActions(nvec=(2, 3, 4, 5))
    (action,) = writer.write(np.array([[1, 2, 3, 4]]))
    assert action.tolist() == [[1, 3], [3, 5]]
    assert space.contains(action)
    buttons = spaces.MultiBinary((2, 2))
    (pressed,) = action_writer(buttons, "a").write(np.array([[1, 0, 0, 1]]))
    assert pressed.tolist() == [[1, 0], [0, 1]]
    assert buttons.contains(pressed)


def test_canonical_actions_reach_the_bounds_and_are_clipped_to_them():
    low, high = np.array([[-2.0, 0.0, -np.inf, 1.0], [2.0, 1.0, np.inf, np.inf]], np.float32)
    space = spaces.Box(low, high)
    writer = action_writer(space, "a")
    assert isinstance(writer.spec, ContinuousActions)
    rows = np.array([[-1, -1, -7, 2], [1, 1, 7, 0.5], [0, 0, 0, 3], [5, -5, 9, 9]], np.float32)
    written = writer.write(rows)
    assert [row.tolist() for row in written] == [[-2, 0, -7, 2], [2, 1, 7, 1], [0, 0.5, 0, 3], [2, 0, 9, 9]]
    assert all(space.contains(row) for row in written)
    assert not np.shares_memory(written[0], rows)


def test_bounds_whose_difference_overflows_are_scaled_all_the_same():
    big = float(np.finfo(np.float32).max)
    (low,), (middle,), (high,) = action_writer(spaces.Box(-big, big, (1,), np.float32), "a").write(
        np.array([[-1], [0], [1]], np.float32)
    )
    assert (low, middle, high) == (-big, 0, big)


def test_masks_are_one_vector_of_the_right_size():
    spec = MultiDiscreteActions(nvec=(2, 3))
    assert mask_of((np.array([1, 0]), np.array([0, 1, 1])), spec, "a").tolist() == [True, False, False, True, True]
    with pytest.raises(SpecError, match="mask of a has 4 entries"):
        mask_of(np.ones(4), spec, "a")
    with pytest.raises(SpecError, match="continuous"):
        mask_of(np.ones(1), ContinuousActions(low=(0.0,), high=(1.0,)), "a")


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_images_of_bytes_with_channels_first_are_turned(channels):
    space = spaces.Box(0, 255, (channels, 9, 7), np.uint8)
    reader = observation_reader(space, "a")
    assert reader.spec == ArraySpec(shape=(9, 7, channels), dtype=torch.uint8)
    image = space.sample()
    read = reader.read(image)
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, np.moveaxis(image, 0, -1))


@pytest.mark.parametrize(
    ("shape", "dtype"), [((3, 9, 3), np.uint8), ((5, 9, 7), np.uint8), ((3, 9, 7), np.float32), ((3, 4, 7), np.uint8)]
)
def test_arrays_that_may_well_have_channels_last_stay_as_they_are(shape, dtype):
    assert observation_reader(spaces.Box(0, 255, shape, dtype), "a").spec.shape == shape
