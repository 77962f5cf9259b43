"""Parallel environments: rows, seeds, deaths and births."""

import pytest
from pettingzoo_batches import environment_of, zeros
from toy_environments import Countdown

from marl.envs.factory import vectorize
from marl.random_streams import derive_int
from marl.testing.environment_checks import check_environment


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
