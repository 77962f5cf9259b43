import numpy as np
import pytest
import torch
from gymnasium import spaces
from toy_environments import Countdown, Mixed

from marl.acting.random_actions import RandomActions
from marl.core import EnvironmentRequest
from marl.envs.factory import vectorize
from marl.envs.pettingzoo.rows import ApiError
from marl.envs.pettingzoo.vector import PettingZooVectorEnvironment
from marl.errors import InputError
from marl.specs import SpecError
from marl.streams import derive_int
from marl.testing.environments import check_environment, tensors_of


def environment_of(make, **request):
    request.setdefault("num_envs", 2)
    return PettingZooVectorEnvironment(make, EnvironmentRequest(**request))


def zeros(environment):
    return {
        group.name: torch.zeros(
            (environment.num_envs, group.size, *group.action.array.shape), dtype=group.action.array.dtype
        )
        for group in environment.spec.groups
    }


def play(environment, steps):
    for _ in range(steps):
        environment.step(zeros(environment))


def test_observations_are_rows_by_copy_and_agent():
    environment = environment_of(Countdown, num_envs=3, seed=5)
    timestep = environment.reset()
    seeds = [derive_int(5, "train/environment", copy, 0) % 1000 for copy in range(3)]
    expected = [[[agent, 0, seeds[copy]] for agent in range(2)] for copy in range(3)]
    assert timestep.groups["agent"].observations.tolist() == expected
    assert timestep.state.tolist() == [[*rows[0], *rows[1]] for rows in expected]
    assert timestep.first.all()
    timestep = environment.step(zeros(environment))
    assert timestep.groups["agent"].observations[:, :, 1].eq(1).all()
    assert timestep.groups["agent"].rewards.tolist() == [[1, 2]] * 3
    assert not timestep.first.any()
    assert timestep.final is None


def test_episodes_take_their_seeds_from_the_global_copy_and_their_number():
    environment = environment_of(lambda: Countdown((1, 1)), first_env=7, seed=3, purpose="evaluate")
    timestep = environment.reset()
    for episode in range(3):
        seeds = [derive_int(3, "evaluate/environment", 7 + copy, episode) % 1000 for copy in range(2)]
        assert timestep.groups["agent"].observations[:, 0, 2].tolist() == seeds
        timestep = environment.step(zeros(environment))


def test_terminated_and_truncated_are_kept_apart_and_the_last_observation_is_the_true_one():
    environment = environment_of(lambda: Countdown((2, 2), cut=(1,)))
    environment.reset()
    environment.step(zeros(environment))
    timestep = environment.step(zeros(environment))
    group = timestep.groups["agent"]
    assert group.terminated.tolist() == [[True, False]] * 2
    assert group.truncated.tolist() == [[False, True]] * 2
    assert group.rewards.tolist() == [[1, 2]] * 2
    assert group.active.all()
    assert group.observations[:, :, 1].eq(0).all()
    assert timestep.final.envs.tolist() == [0, 1]
    assert timestep.final.groups["agent"].observations[:, :, 1].eq(2).all()
    assert timestep.final.state[:, 1].eq(2).all()
    assert timestep.first.all()
    timestep = environment.step(zeros(environment))
    assert not timestep.groups["agent"].terminated.any()
    assert not timestep.groups["agent"].truncated.any()


def test_an_agent_both_terminated_and_truncated_counts_as_terminated():
    class Both(Countdown):
        def step(self, actions):
            observed, rewards, terminated, _, infos = super().step(actions)
            return observed, rewards, terminated, dict(terminated), infos

    environment = environment_of(lambda: Both((1, 1)))
    environment.reset()
    group = environment.step(zeros(environment)).groups["agent"]
    assert group.terminated.all()
    assert not group.truncated.any()


def test_the_dead_are_inactive_keep_their_last_observation_and_get_nothing():
    environment = environment_of(lambda: Countdown((1, 3), cut=(0,)))
    environment.reset()
    timestep = environment.step(zeros(environment))
    group = timestep.groups["agent"]
    assert group.truncated.tolist() == [[True, False]] * 2
    assert group.active.tolist() == [[False, True]] * 2
    assert timestep.final is None
    timestep = environment.step(zeros(environment))
    group = timestep.groups["agent"]
    assert group.observations[0, :, 1].tolist() == [1, 2]
    assert group.rewards.tolist() == [[0, 2]] * 2
    assert not group.truncated.any()
    timestep = environment.step(zeros(environment))
    assert timestep.final.groups["agent"].observations[0, :, 1].tolist() == [1, 3]
    assert timestep.groups["agent"].terminated.tolist() == [[False, True]] * 2
    assert timestep.groups["agent"].active.all()


def test_agents_may_appear_later():
    environment = environment_of(lambda: Countdown((4, 4), late={1: 2}))
    timestep = environment.reset()
    assert timestep.groups["agent"].active.tolist() == [[True, False]] * 2
    assert timestep.groups["agent"].observations[:, 1].eq(0).all()
    environment.step(zeros(environment))
    timestep = environment.step(zeros(environment))
    assert timestep.groups["agent"].active.all()
    assert timestep.groups["agent"].observations[0, 1, :2].tolist() == [1, 2]
    environment.step(zeros(environment))
    timestep = environment.step(zeros(environment))
    assert timestep.final.envs.tolist() == [0, 1]
    assert timestep.groups["agent"].active.tolist() == [[True, False]] * 2


@pytest.mark.parametrize("lives", [(3, 3), (1, 4, 2), (5,)])
@pytest.mark.parametrize("late", [{}, {0: 1}])
def test_toys_keep_all_promises(lives, late):
    if len(lives) == 1:
        late = {}
    check_environment(vectorize(lambda: Countdown(lives, cut=(0,), late=late)), steps=20)


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
    assert type(first["dict"]) is int
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


def broken(**changes):
    """A Countdown whose copy 1 breaks a rule in its second step."""
    made = []

    class Broken(Countdown):
        def step(self, actions):
            result = dict(zip(("observed", "rewards", "ended", "cut", "infos"), super().step(actions), strict=True))
            if made.index(self) == 2 and self.steps == 2:
                for name, change in changes.items():
                    result[name] = change(result[name])
            return tuple(result.values())

    def make():
        made.append(Broken((9, 9)))
        return made[-1]

    return make


def without(values):
    return {agent: value for agent, value in values.items() if agent != "agent_1"}


def with_value(value):
    return lambda values: {**values, "agent_1": value}


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"rewards": without}, "rewards has an entry"),
        ({"observed": without}, "observations has an entry"),
        ({"ended": without}, "terminations has an entry"),
        ({"cut": without}, "truncations has an entry"),
        ({"rewards": with_value(float("nan"))}, "rewards are finite"),
        ({"rewards": with_value(None)}, "rewards are finite"),
        ({"rewards": with_value([1.0, 2.0])}, "a reward is a number"),
        ({"observed": with_value(np.array([0, np.inf, 0], np.float32))}, "observations are finite"),
        ({"observed": with_value(np.zeros(4, np.float32))}, "shape of its space"),
        ({"observed": with_value(np.zeros((3, 1), np.float32))}, "shape of its space"),
        ({"observed": with_value(np.float32(1))}, "shape of its space"),
        ({"observed": with_value(np.array(["a", "b", "c"]))}, "dtype of its space"),
        ({"observed": with_value(np.zeros(3, complex))}, "dtype of its space"),
    ],
)
def test_what_breaks_the_api_is_named_with_agent_and_copy(changes, rule):
    environment = environment_of(broken(**changes))
    environment.reset()
    environment.step(zeros(environment))
    with pytest.raises(ApiError, match=rule) as caught:
        environment.step(zeros(environment))
    assert (caught.value.agent, caught.value.copy) == ("agent_1", 1)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, InputError)


@pytest.mark.parametrize("changes", [{"rewards": lambda _: None}, {"observed": lambda _: [1]}])
def test_results_that_are_no_dictionaries_are_named(changes):
    environment = environment_of(broken(**changes))
    environment.reset()
    environment.step(zeros(environment))
    with pytest.raises(ApiError, match="a dictionary by agent"):
        environment.step(zeros(environment))


def test_agents_that_vanish_return_or_come_unannounced_are_named():
    class Vanishing(Countdown):
        def step(self, actions):
            result = super().step(actions)
            self.agents = self.agents[:1]
            return result

    class Returning(Countdown):
        def step(self, actions):
            if self.steps == 1:
                self.agents = ["agent_1"]
                result = Countdown.step(self, actions)
                self.agents = ["agent_0", "agent_1"]
                return result
            return super().step(actions)

    class Stranger(Countdown):
        def step(self, actions):
            result = super().step(actions)
            self.agents = [*self.agents, "stranger"]
            return result

    for make, rule in [
        (lambda: Vanishing((9, 9)), "leaves only when"),
        (lambda: Returning((1, 9)), "a dead agent stays dead"),
        (lambda: Stranger((9, 9)), "possible_agents names every agent"),
    ]:
        environment = environment_of(make)
        environment.reset()
        with pytest.raises(ApiError, match=rule):
            play(environment, 3)


def test_an_agent_without_a_legal_action_is_named():
    names = ["agent_0", "agent_1"]
    space, choice = spaces.Box(0, 1, (1,), np.float32), spaces.Discrete(2)
    masks = {"agent_0": np.array([1, 1]), "agent_1": np.array([0, 0])}
    environment = environment_of(lambda: Mixed(dict.fromkeys(names, space), dict.fromkeys(names, choice), masks))
    with pytest.raises(ApiError, match=r"legal action.*agent_1, copy 0"):
        environment.reset()


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
