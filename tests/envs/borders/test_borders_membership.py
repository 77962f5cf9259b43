"""Observations outside their spaces: the doctor tells them, and training refuses what it would misread."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from toy_environments import Countdown, Relay

from marl.core import EnvironmentRequest
from marl.envs.borders.membership import find_strays
from marl.envs.conformance import examine_callable
from marl.envs.factory import vectorize
from marl.envs.pettingzoo.rows import ApiError

RULE = "observations belong to their spaces"


def showing(space, *values):
    """A parallel environment in which everybody sees these values, one after the other."""

    class Showing(Countdown):
        def observation_space(self, agent):
            return space

        def observe(self, agent):
            return values[self.steps % len(values)]

    return lambda: Showing((6, 6))


def told(make):
    return [finding for finding in examine_callable(make, steps=8) if finding.rule == RULE]


def test_the_doctor_fails_values_that_would_be_read_as_others():
    (first, second) = told(showing(spaces.Discrete(5), 4, -1))
    assert {first.agent, second.agent} == {"agent_0", "agent_1"}
    for finding in (first, second):
        assert not finding.ok
        assert finding.fatal
        assert "-1 is not in Discrete(5)" in finding.message


def test_the_doctor_notes_numbers_beyond_the_bounds_of_a_box_and_other_dtypes():
    finding = told(showing(spaces.Box(0, 1, (2,), np.float32), np.array([0.5, 7.0], np.float32)))[0]
    assert not finding.fatal
    assert not finding.ok
    assert "holds 7.0, and its space is from 0.0 to 1.0" in finding.message
    finding = told(showing(spaces.Box(0, 1, (2,), np.float32), np.array([0.5, 1.0])))[0]
    assert "is of float64, and its space of float32" in finding.message
    (finding, _) = told(showing(spaces.Dict(x=spaces.Box(0, 1, (1,))), {"x": np.array([2.0], np.float32)}))
    assert "['x'] holds 2.0" in finding.message


def test_the_doctor_has_nothing_to_say_of_what_is_in_its_space():
    for make in (Relay, showing(spaces.MultiDiscrete([3, 3]), np.array([0, 2]), np.array([1, 1]))):
        (finding,) = told(make)
        assert finding.ok


def test_what_turn_based_games_show_is_looked_at_too():
    class Wrong(Relay):
        def observe(self, agent):
            return super().observe(agent) + 10_000

    assert {stray.agent for stray in find_strays(Wrong, steps=8)} == set(Wrong().possible_agents)


@pytest.mark.parametrize(
    ("space", "good", "bad"),
    [
        (spaces.Discrete(5), 4, -1),
        (spaces.MultiDiscrete([49, 49, 49]), (0, 48, 24), (0, 56, 24)),
        (spaces.MultiBinary(2), np.array([0, 1]), np.array([0, 7])),
        (
            spaces.Dict(a=spaces.Box(-1, 9, (2,)), b=spaces.Box(-1, 9, (2,))),
            {"a": np.ones(2), "b": np.ones(2)},
            {"a": np.ones(1), "b": np.ones(3)},
        ),
    ],
)
@pytest.mark.parametrize("late", [1, 5, 6])
def test_values_outside_their_space_end_training_by_agent_and_copy_at_any_step(space, good, bad, late):
    class Leaving(Countdown):
        def observation_space(self, agent):
            return space

        def observe(self, agent):
            return bad if self.steps == late and agent == "agent_1" else good

    environment = vectorize(lambda: Leaving((6, 6)))(EnvironmentRequest(num_envs=2, with_state=False))
    environment.reset()
    actions = {"agent": torch.zeros((2, 2), dtype=torch.int64)}
    with pytest.raises(ApiError, match="agent agent_1, copy 0") as caught:
        _play(environment, actions, 6)
    assert caught.value.rule == "an observation belongs to its space"


def _play(environment, actions, steps):
    for _ in range(steps):
        environment.step(actions)
