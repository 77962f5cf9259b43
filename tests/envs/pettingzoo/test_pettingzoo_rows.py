"""Environments that break PettingZoo's API."""

import numpy as np
import pytest
from gymnasium import spaces
from pettingzoo_batches import environment_of, play, zeros
from toy_environments import Countdown, Mixed

from marl.envs.pettingzoo.rows import ApiError
from marl.errors import InputError


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
        ({"rewards": with_value(None)}, "a reward is a number"),
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
