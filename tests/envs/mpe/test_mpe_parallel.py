"""One copy of a batched task as a PettingZoo environment."""

import warnings

import numpy as np
import pytest

from marl.envs.mpe import TASKS
from marl.envs.mpe.parallel import parallel_env
from marl.errors import InputError


@pytest.mark.parametrize("continuous", [False, True])
@pytest.mark.parametrize("name", TASKS)
def test_one_copy_passes_pettingzoos_own_api_test(name, continuous):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # importing PettingZoo's tests makes environments in a way it deprecates
        from pettingzoo.test import parallel_api_test
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parallel_api_test(parallel_env(name, continuous_actions=continuous), num_cycles=60)


def test_one_copy_repeats_its_episodes_from_a_seed():
    env = parallel_env("mpe2.simple_reference_v3", max_cycles=3)
    episodes = []
    for seed in (5, None, 5, None):
        observations, infos = env.reset(seed=seed)
        assert set(infos) == set(env.agents)
        total = [np.concatenate([*observations.values()])]
        while env.agents:
            observations, rewards, *_ = env.step(dict.fromkeys(env.agents, 7))
            total += [np.concatenate([*observations.values()]), [*rewards.values()]]
            assert np.array_equal(env.state(), np.concatenate([*observations.values()]))
        episodes.append(np.concatenate(total))
    assert np.array_equal(episodes[0], episodes[2])
    assert np.array_equal(episodes[1], episodes[3])
    assert not np.array_equal(episodes[0], episodes[1])
    with pytest.raises(InputError, match="call reset"):
        env.step({})
    env.reset()
    with pytest.raises(InputError, match="no action for agent_1"):
        env.step({"agent_0": 0})
    env.close()


def test_drawing_is_left_to_mpe2():
    with pytest.raises(InputError, match="does not draw"):
        parallel_env("mpe2.simple_v3", render_mode="rgb_array")
