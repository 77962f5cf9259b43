import re
import sys

import pytest
import torch
from toy_environments import Countdown

from marl.core import EnvironmentRequest
from marl.envs.factory import make_factory, vectorize
from marl.envs.preprocessing import Preprocessing
from marl.errors import InputError
from marl.testing.environment_checks import check_timesteps

ONE = EnvironmentRequest(num_envs=1)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mpe2.simple_spred_v3", "did you mean 'mpe2.simple_spread_v3'"),
        ("classic/connect4-v3", "did you mean 'classic/connect_four-v3'"),
        ("classic/connect_four-v9", "did you mean 'classic/connect_four-v3'"),
        ("nonsense_nowhere", "there is no environment 'nonsense_nowhere'"),
        ("", "no name of an environment"),
        ("..", "no name of an environment"),
        ("os.path", "neither parallel_env nor env"),
        ("toy_environments:Countdwn", "did you mean 'Countdown'"),
        ("toy_environments:np", "no callable"),
    ],
)
def test_a_wrong_name_gets_the_nearest_one(name, message):
    with pytest.raises(InputError, match=message) as caught:
        make_factory(name)
    assert "\n" not in str(caught.value)


def test_a_wrong_game_of_openspiel_gets_the_nearest_one():
    pytest.importorskip("pyspiel")
    with pytest.raises(InputError, match="did you mean 'openspiel/kuhn_poker'"):
        make_factory("openspiel/kuhn_pokr")


@pytest.mark.parametrize(("name", "package"), [("lbf/Foraging-8x8-2p-2f-coop-v3", "lbforaging"), ("rware/x", "rware")])
def test_a_missing_package_is_named_with_what_installs_it(name, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=f"pip install {package}"):
        make_factory(name)


def test_a_missing_suite_of_pettingzoo_is_named_with_what_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "multi_agent_ale_py", None)
    with pytest.raises(InputError, match=re.escape("pip install 'pettingzoo[atari]'")):
        make_factory("atari/pong-v3")


def test_wrong_arguments_get_those_that_there_are():
    with pytest.raises(InputError, match=r"no argument continous; did you mean 'continuous_actions'\?; it takes N, "):
        make_factory("mpe2.simple_spread_v3", env_kwargs={"continous": True})
    with pytest.raises(InputError, match="it takes lives, cut, late"):
        make_factory("toy_environments:Countdown", env_kwargs={"life": 3})
    factory = make_factory("mpe2.simple_spread_v3", env_kwargs={"local_ratio": "much"})
    with pytest.raises(InputError, match=re.escape("cannot be made with {'local_ratio': 'much'}")):
        factory(ONE)


def test_arguments_reach_the_environment():
    spec = make_factory("mpe2.simple_spread_v3", env_kwargs={"N": 2, "continuous_actions": True})(ONE).spec
    assert spec.agents == ("agent_0", "agent_1")
    assert spec.groups[0].action.array.dtype == torch.float32


def test_callables_are_found_in_modules_and_taken_as_they_are():
    check_timesteps(make_factory("toy_environments:Countdown", env_kwargs={"lives": (2, 3)}), steps=8)
    check_timesteps(vectorize(Countdown), steps=8)


def test_the_batched_backend_is_asked_where_wanted():
    environment = make_factory("mpe2.simple_spread_v3", env_kwargs={"N": 2}, backend="batched")(ONE)
    assert environment.spec.agents == ("agent_0", "agent_1")
    with pytest.raises(InputError, match="no batched version"):
        make_factory("classic/tictactoe-v3", backend="batched")
    with pytest.raises(InputError, match="nothing to preprocess"):
        make_factory("mpe2.simple_spread_v3", backend="batched", preprocessing=Preprocessing(grey=True))
    with pytest.raises(InputError, match="pettingzoo or batched"):
        make_factory("mpe2.simple_spread_v3", backend="fast")


def test_gymnasium_environments_with_tuples_become_parallel_ones():
    import gymnasium
    import numpy as np

    from marl.envs.gymnasium_tuple import GymnasiumTupleEnv

    class Pair(gymnasium.Env):
        observation_space = gymnasium.spaces.Tuple((gymnasium.spaces.Box(0, 9, (1,), np.float32),) * 2)
        action_space = gymnasium.spaces.Tuple((gymnasium.spaces.Discrete(2), gymnasium.spaces.Discrete(3)))

        def reset(self, seed=None, options=None):
            self.steps = 0
            return self.seen(), {}

        def seen(self):
            return tuple(np.array([self.steps], np.float32) for _ in range(2))

        def step(self, actions):
            assert len(actions) == 2
            self.steps += 1
            return self.seen(), [1.0, 2.0], self.steps == 4 or actions[0] == 1, False, {}

    make = vectorize(lambda: GymnasiumTupleEnv(Pair(), time_limit=4))
    check_timesteps(make, steps=20)
    environment = make(ONE)
    environment.reset()
    stay = {"agent_0": torch.zeros(1, 1, dtype=torch.int64), "agent_1": torch.zeros(1, 1, dtype=torch.int64)}
    for _ in range(4):
        timestep = environment.step(stay)
    assert timestep.groups["agent_0"].truncated.all()
    timestep = environment.step({**stay, "agent_0": torch.ones(1, 1, dtype=torch.int64)})
    assert timestep.groups["agent_1"].terminated.all()
    assert timestep.groups["agent_1"].rewards.item() == 2
    with pytest.raises(InputError, match="no tuple of spaces"):
        GymnasiumTupleEnv(gymnasium.make("CartPole-v1"))


def test_foraging_keeps_all_promises():
    pytest.importorskip("lbforaging")
    check_timesteps(make_factory("lbf/Foraging-8x8-2p-2f-coop-v3"), steps=60)


def test_the_warehouse_keeps_all_promises():
    pytest.importorskip("rware")
    check_timesteps(make_factory("rware/rware-tiny-2ag-v2"), steps=20)
