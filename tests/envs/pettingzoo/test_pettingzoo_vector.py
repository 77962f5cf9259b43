"""Spaces, states, groups and resumption of any PettingZoo environment."""

import weakref

import numpy as np
import pytest
import torch
from gymnasium import spaces
from mpe2 import simple_spread_v3
from pettingzoo_batches import environment_of, zeros
from toy_environments import Countdown, Mixed

from marl.acting.random_actions import RandomActions
from marl.core import EnvironmentRequest
from marl.envs.factory import vectorize
from marl.envs.pettingzoo.rows import ApiError
from marl.errors import InputError
from marl.specs import SpecError
from marl.testing.environment_checks import check_environment, tensors_of


def odd_spaces():
    mask = spaces.Box(0, 1, (3,), np.int8)
    observations = {
        "box": spaces.Box(-1, 1, (2, 3), np.float64),
        "dict": spaces.Dict(observation=spaces.Box(-1, 1, (2,), np.float32), action_mask=mask),
        "image": spaces.Box(0, 255, (4, 5, 3), np.uint8),
        "number": spaces.Box(-1, 1, (), np.float32),
        "tuple": spaces.Tuple((spaces.Discrete(3), spaces.Box(-1, 1, (2,), np.float32))),
    }
    actions = {
        "box": spaces.Box(0, 10, (2, 2), np.float32),
        "dict": spaces.Discrete(3, start=5),
        "image": spaces.MultiDiscrete([2, 3]),
        "number": spaces.MultiBinary(3),
        "tuple": spaces.Discrete(2),
    }
    info = {"image": (np.array([0, 1]), np.array([1, 0, 1])), "tuple": np.array([1, 0], np.int8)}
    return Mixed(observations, actions, info)


def test_agents_of_every_kind_of_space_act_together():
    check_environment(vectorize(odd_spaces), steps=12)


def test_masks_come_from_observations_and_from_infos():
    environment = environment_of(odd_spaces)
    groups = environment.reset().groups
    assert groups["dict"].action_masks.tolist() == [[[False, True, True]]] * 2
    assert groups["image"].action_masks.tolist() == [[[False, True, True, False, True]]] * 2
    assert groups["tuple"].action_masks.tolist() == [[[True, False]]] * 2
    assert groups["box"].action_masks is None
    assert environment.step(zeros(environment)).groups["dict"].action_masks.tolist() == [[[True, False, True]]] * 2


def test_actions_reach_the_environment_in_its_own_units():
    made = []

    def make():
        made.append(odd_spaces())
        return made[-1]

    environment = environment_of(make)
    environment.reset()
    actions = zeros(environment)
    actions["dict"][:] = torch.tensor([[1], [2]])
    actions["box"][1] = 1.0
    environment.step(actions)
    first, second = (made[1].received[-1], made[2].received[-1])
    assert (first["dict"], second["dict"]) == (6, 7)
    assert (first["dict"].item(), first["dict"].dtype) == (6, np.int64)
    assert first["box"].tolist() == [[5, 5], [5, 5]]
    assert second["box"].tolist() == [[10, 10], [10, 10]]


def test_actions_of_another_shape_or_dtype_are_refused():
    environment = environment_of(Countdown)
    with pytest.raises(ValueError, match="reset must be called"):
        environment.step(zeros(environment))
    environment.reset()
    with pytest.raises(ValueError, match="actions of agent"):
        environment.step({"agent": torch.zeros(2, 3, dtype=torch.int64)})
    with pytest.raises(ValueError, match="actions of agent"):
        environment.step({"agent": torch.zeros(2, 2)})
    with pytest.raises(ValueError, match="the groups are"):
        environment.step({})


def test_the_state_is_none_where_nobody_asks_for_it():
    environment = environment_of(Countdown, with_state=False)
    assert environment.spec.state is None
    assert environment.reset().state is None


def test_an_own_state_is_used_and_a_repetition_of_observations_is_not_computed_again():
    calls = []

    class Own(Countdown):
        def state(self):
            calls.append(self)
            return np.concatenate([self.observe(agent) for agent in self.possible_agents])

    class Other(Countdown):
        def state(self):
            return np.array([[self.steps, 42]], np.float64)

    environment = environment_of(lambda: Own((2, 5)))
    timestep = environment.reset()
    calls.clear()
    environment.reset()
    environment.step(zeros(environment))
    assert not calls
    timestep = environment.step(zeros(environment))
    assert calls  # The first agent has died: from then on the environment is asked.
    assert timestep.state[:, 1].tolist() == [2, 2]
    timestep = environment_of(Other).reset()
    assert timestep.state.tolist() == [[[0, 42]]] * 2
    assert timestep.state.dtype == torch.float32


def test_image_observations_without_a_state_are_stacked_into_one():
    image = spaces.Box(0, 255, (4, 5, 3), np.uint8)
    names = [f"agent_{index}" for index in range(2)]
    environment = environment_of(lambda: Mixed(dict.fromkeys(names, image), dict.fromkeys(names, spaces.Discrete(2))))
    assert environment.spec.state.shape == (4, 5, 6)
    timestep = environment.reset()
    observations = timestep.groups["agent"].observations
    assert torch.equal(timestep.state, torch.cat([observations[:, 0], observations[:, 1]], dim=-1))


def test_sharing_decides_the_groups():
    by_name = {"agent_0": "x", "agent_1": "y"}
    for sharing, names in [("none", ["agent_0", "agent_1"]), ("all", ["agent"]), (by_name, ["x", "y"])]:
        environment = environment_of(Countdown, sharing=sharing)
        assert [group.name for group in environment.spec.groups] == names
        timestep = environment.reset()
        assert list(timestep.groups) == names
        assert sum(group.active.sum() for group in environment.step(zeros(environment)).groups.values()) == 4


def test_a_resumed_run_goes_on_alike_after_a_replay_of_its_actions():
    environment = environment_of(lambda: Countdown((3, 7)), num_envs=3)
    choose = RandomActions(environment.spec, num_envs=3)
    timestep = environment.reset()
    for _ in range(200):
        timestep = environment.step(choose(timestep))
    saved = environment.env_state_dict()
    assert saved["actions.agent"].dtype == torch.uint8
    assert saved["actions.agent"].shape == (3, 4, 2)
    resumed = environment_of(lambda: Countdown((3, 7)), num_envs=3)
    # Other ranks may have longer episodes; what is appended to the rows does not matter.
    saved["actions.agent"] = torch.cat([saved["actions.agent"], torch.ones(3, 5, 2, dtype=torch.uint8)], dim=1)
    resumed.load_env_state_dict(saved)
    assert resumed.not_reproduced == 0
    current, expected = tensors_of(resumed.current()), tensors_of(environment.current())
    assert all(torch.equal(current[name], expected[name]) for name in expected)


def test_a_copy_that_cannot_be_replayed_begins_its_next_episode_and_is_counted():
    class Forgetful(Countdown):
        count = 0

        def observe(self, agent):
            Forgetful.count += 1
            return np.array([0, self.steps, Forgetful.count], np.float32)

    environment = environment_of(lambda: Forgetful((9, 9)))
    environment.reset()
    environment.step(zeros(environment))
    resumed = environment_of(lambda: Forgetful((9, 9)))
    resumed.load_env_state_dict(environment.env_state_dict())
    assert resumed.not_reproduced == 2
    assert resumed.current().first.all()
    assert resumed.env_state_dict()["episode"].tolist() == [1, 1]
    assert not resumed.current().groups["agent"].rewards.any()
    resumed.step(zeros(resumed))


def test_rows_that_do_not_fit_are_not_loaded():
    environment = environment_of(Countdown)
    environment.reset()
    saved = environment.env_state_dict()
    with pytest.raises(ValueError, match="not 3"):
        environment_of(Countdown, num_envs=3).load_env_state_dict(saved)
    del saved["hash"]
    with pytest.raises(ValueError, match="no hash"):
        environment.load_env_state_dict(saved)


def test_what_is_no_pettingzoo_environment_is_refused():
    with pytest.raises(InputError, match="neither a PettingZoo"):
        environment_of(lambda: 3)

    class Nameless(Countdown):
        def __init__(self):
            super().__init__()
            del self.possible_agents

    class Unseeded(Countdown):
        def reset(self):
            return super().reset()

    with pytest.raises(ApiError, match="possible_agents"):
        environment_of(Nameless)
    with pytest.raises(ApiError, match="reset takes a seed"):
        environment_of(Unseeded)
    with pytest.raises(InputError, match="at least one copy"):
        environment_of(Countdown, num_envs=0)
    with pytest.raises(SpecError, match="cannot share a policy"):
        environment_of(odd_spaces, sharing="all")
    continuous = {"a": spaces.Box(0, 1, (2,), np.float32)}
    with pytest.raises(SpecError, match="continuous"):
        environment_of(lambda: Mixed(continuous, continuous, {"a": np.ones(2)}))


@pytest.mark.parametrize("make", [simple_spread_v3.parallel_env, simple_spread_v3.env])
def test_a_closed_environment_lets_its_copies_go(make):
    alive = []

    def watched():
        environment = make()
        alive.append(weakref.ref(environment.unwrapped))
        return environment

    environment = vectorize(watched)(EnvironmentRequest(num_envs=3))
    environment.reset()
    assert all(one() is not None for one in alive)
    environment.close()
    environment.close()
    assert [one() for one in alive] == [None] * len(alive)
