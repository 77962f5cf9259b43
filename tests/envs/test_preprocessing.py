import numpy as np
import pytest
import torch
from gymnasium import spaces
from toy_environments import Countdown, Mixed

from marl.core import EnvironmentRequest
from marl.envs.factory import vectorize
from marl.envs.preprocessing import Preprocessing
from marl.errors import InputError
from marl.testing.environment_checks import check_environment

NAMES = ("agent_0", "agent_1")


class Painted(Mixed):
    """Images of one colour: red = 10 × steps, and the state alike."""

    state_space = spaces.Box(0, 255, (6, 8, 3), np.uint8)

    def __init__(self):
        image = spaces.Box(0, 255, (6, 8, 3), np.uint8)
        super().__init__(dict.fromkeys(NAMES, image), dict.fromkeys(NAMES, spaces.Discrete(2)))

    def state(self):
        image = np.zeros((6, 8, 3), np.uint8)
        image[..., 0] = 10 * (self.steps + 1)
        return image

    def _results(self):
        _, infos = super()._results()
        return {agent: self.state() for agent in NAMES}, infos


def steps_of(preprocessing, count, make=Painted):
    environment = vectorize(make, preprocessing=preprocessing)(EnvironmentRequest(num_envs=1))
    timesteps = [environment.reset()]
    images = [timesteps[0].groups["agent"].observations[0, 0].clone()]
    states = [timesteps[0].state[0].clone()]
    for _ in range(count):
        timestep = environment.step({"agent": torch.zeros(1, 2, dtype=torch.int64)})
        images.append(timestep.groups["agent"].observations[0, 0].clone())
        states.append(timestep.state[0].clone())
    return images, states


def test_grey_images_keep_a_channel_and_weigh_the_colours():
    images, states = steps_of(Preprocessing(grey=True), 1)
    assert images[0].shape == (6, 8, 1)
    assert images[0].dtype == torch.uint8
    # Luma of ITU-R BT.601: 0.299 of red, rounded down.
    assert images[1].unique().tolist() == [int(0.299 * 20)]
    assert torch.equal(states[1], images[1])


def test_resize_takes_height_and_width():
    images, states = steps_of(Preprocessing(resize=(3, 5)), 0)
    assert images[0].shape == (3, 5, 3)
    assert states[0].shape == (3, 5, 3)


def test_frames_are_stacked_oldest_first_and_begin_with_the_first_one():
    images, states = steps_of(Preprocessing(frame_stack=3), 6)
    for row in (images, states):
        red = [image[0, 0, ::3].tolist() for image in row]
        assert red[:4] == [[10, 10, 10], [10, 10, 20], [10, 20, 30], [20, 30, 40]]
        # The episode has ended after five steps; nothing of it is left in the next one.
        assert red[5] == [10, 10, 10]


def test_dtype_is_changed_where_asked():
    images, _ = steps_of(Preprocessing(dtype="float32"), 0)
    assert images[0].dtype == torch.float32
    assert images[0].max() == 10


def test_vectors_can_be_stacked():
    environment = vectorize(Countdown, preprocessing=Preprocessing(frame_stack=2))(EnvironmentRequest(num_envs=1))
    assert environment.spec.groups[0].observation.shape == (6,)
    check_environment(vectorize(lambda: Countdown((3, 5)), preprocessing=Preprocessing(frame_stack=2)), steps=12)


def test_preprocessed_images_keep_all_promises_in_both_forms():
    from pettingzoo.utils.conversions import parallel_to_aec

    preprocessing = Preprocessing(grey=True, resize=(4, 4), frame_stack=2)
    check_environment(vectorize(Painted, preprocessing=preprocessing), steps=12)
    check_environment(vectorize(lambda: parallel_to_aec(Painted()), preprocessing=preprocessing), steps=12)


def test_what_cannot_be_preprocessed_is_refused_by_name_of_the_agent():
    for preprocessing, make, message in [
        (Preprocessing(grey=True), Countdown, "agent_0 cannot be made grey"),
        (Preprocessing(resize=(4, 4)), Countdown, "agent_0 cannot be resized"),
        (
            Preprocessing(frame_stack=2),
            lambda: Mixed({"a": spaces.Discrete(2)}, {"a": spaces.Discrete(2)}),
            "a cannot be preprocessed",
        ),
    ]:
        with pytest.raises(InputError, match=message):
            vectorize(make, preprocessing=preprocessing)(EnvironmentRequest(num_envs=1))
    for wrong in ({"frame_stack": 0}, {"resize": (0, 4)}, {"dtype": "int64"}):
        with pytest.raises(InputError):
            Preprocessing(**wrong)
