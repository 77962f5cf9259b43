"""Environments that raise: their copy begins anew, what was dropped is marked, and too much ends in one line."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_environments import Countdown, Relay

from marl.acting.episodes import EpisodeStatistics, EpisodeTracker
from marl.core import EnvironmentRequest
from marl.distributed.communicators import SerialCommunicator
from marl.envs.factory import vectorize
from marl.errors import InputError


class Fragile(Countdown):
    """Raises at its second step in every episode whose seed is divisible by three, or at its reset."""

    def __init__(self, *arguments, at="step", always=False):
        super().__init__(*arguments)
        self._at, self._always = at, always

    def _fails(self, seed):
        # The probe that finds out about spaces resets with seeds 0 and 1.
        return seed > 1 and (self._always or seed % 3 == 0)

    def reset(self, seed=None, options=None):
        if self._at == "reset" and self._fails(seed):
            raise OSError("no simulator on port 2000")
        return super().reset(seed, options)

    def step(self, actions):
        if self._at == "step" and self.steps == 1 and self._fails(self.seed):
            raise RuntimeError("the simulator went away")
        return super().step(actions)


class FragileRelay(Relay):
    """Raises when the third turn of an episode whose seed is divisible by three is taken."""

    def reset(self, seed=None, options=None):
        self._turns_taken, self._seed = 0, seed
        super().reset(seed, options)

    def step(self, action):
        self._turns_taken += 1
        if self._turns_taken == 3 and self._seed % 3 == 0:
            raise RuntimeError("the simulator went away")
        super().step(action)


def make(environment, *, num_envs=6, limit=5, **request):
    return vectorize(environment, max_failures=limit)(EnvironmentRequest(num_envs=num_envs, **request))


def still(environment):
    return {
        group.name: torch.zeros((environment.num_envs, group.size, *group.action.array.shape), dtype=torch.int64)
        for group in environment.spec.groups
    }


@pytest.fixture(autouse=True)
def quiet(caplog):
    caplog.set_level(logging.ERROR, "marl")


def seeds_of(step):
    return step.groups["agent"].observations[:, 0, 2].to(torch.int64)


def test_an_exception_cuts_the_episode_off_where_it_was_seen_last():
    environment = make(Fragile)
    environment.reset()
    seen = environment.step(still(environment))
    seeds = environment._envs._environments
    broken = [copy for copy in range(6) if seeds[copy].seed % 3 == 0]
    assert broken
    assert len(broken) < 6
    before = {name: group.observations.clone() for name, group in seen.groups.items()}
    states = seen.state.clone()
    step = environment.step(still(environment))
    assert step.final.envs.tolist() == broken
    assert step.final.dropped.tolist() == [True] * len(broken)
    assert torch.equal(step.final.groups["agent"].observations, before["agent"][broken])
    assert torch.equal(step.final.state, states[broken])
    group = step.groups["agent"]
    assert group.truncated[broken].all()
    assert not group.terminated.any()
    assert not group.rewards[broken].any()
    assert group.rewards[[copy for copy in range(6) if copy not in broken]].all()
    assert step.first.nonzero().flatten().tolist() == broken
    assert (group.observations[broken][:, :, 1] == 0).all()


def test_other_copies_do_not_notice():
    def others(fragile):
        environment = make(Fragile if fragile else Countdown)
        environment.reset()
        rows = []
        for _ in range(2):
            step = environment.step(still(environment))
            rows.append(step.groups["agent"].observations.clone())
        return environment, rows

    (environment, rows), (_, expected) = others(True), others(False)
    whole = [copy for copy in range(6) if copy not in environment.current().final.envs.tolist()]
    for row, reference in zip(rows, expected, strict=True):
        assert torch.equal(row[whole], reference[whole])


def test_dropped_episodes_are_counted_and_are_in_no_mean():
    environment = make(Fragile)
    tracker = EpisodeTracker(environment.spec, 6)
    statistics = EpisodeStatistics(tracker, 6)
    environment.reset()
    dropped = 0
    for _ in range(30):
        step = environment.step(still(environment))
        statistics.observe(step)
        if step.final is not None and step.final.dropped is not None:
            dropped += int(step.final.dropped.sum())
    episodes, metrics = statistics.reduce(SerialCommunicator())
    assert metrics["dropped_episodes"] == dropped > 5
    assert metrics["episode_length/mean"] == 3.0
    assert (metrics["episode_return/agent_0"], metrics["episode_return/agent_1"]) == (3.0, 6.0)
    assert episodes > 5


def test_turns_that_raise_are_dropped_too():
    environment = make(FragileRelay)
    environment.reset()
    dropped = 0
    for _ in range(40):
        step = environment.step(still(environment))
        assert sum(group.active.sum(1) for group in step.groups.values()).tolist() == [1] * 6
        if step.final is not None and step.final.dropped is not None:
            envs = step.final.envs[step.final.dropped]
            dropped += len(envs)
            assert step.first[envs].all()
            assert all(group.truncated[envs].any() for group in step.groups.values())
    assert dropped > 5


def test_a_reset_that_raises_is_tried_with_the_next_seed():
    environment = make(lambda: Fragile(at="reset"))
    environment.reset()
    for _ in range(20):
        step = environment.step(still(environment))
        assert (seeds_of(step) >= 0).all()
    assert all(copy.seed % 3 for copy in environment._envs._environments[:6])


@pytest.mark.parametrize("at", ["step", "reset"])
def test_too_many_failures_in_a_row_are_one_line_with_the_global_copy(at):
    environment = make(lambda: Fragile(at=at, always=True), num_envs=1, first_env=4)
    with pytest.raises(InputError, match=r"^copy 4 of the environment failed in 6 episodes in a row") as caught:  # noqa: PT012
        environment.reset()
        for _ in range(100):
            environment.step(still(environment))
    assert "\n" not in str(caught.value)
    assert ("RuntimeError: the simulator went away" if at == "step" else "OSError: no simulator") in str(caught.value)
    assert f"{Path(__file__).name}:" in str(caught.value)


def test_without_a_limit_the_exception_passes_through():
    environment = make(lambda: Fragile(always=True), limit=0)
    environment.reset()
    environment.step(still(environment))
    with pytest.raises(RuntimeError, match="the simulator went away"):
        environment.step(still(environment))


def test_the_first_failures_are_told(caplog):
    caplog.set_level(logging.WARNING, "marl")
    environment = make(lambda: Fragile(always=True), num_envs=2, limit=10)
    environment.reset()
    for _ in range(12):
        environment.step(still(environment))
    assert len(caplog.messages) == 3
    assert "copy 0 of the environment raised RuntimeError: the simulator went away" in caplog.messages[0]


def test_a_run_with_dropped_episodes_is_resumed_exactly():
    environment = make(Fragile)
    environment.reset()
    for _ in range(7):
        environment.step(still(environment))
    saved = {name: tensor.clone() for name, tensor in environment.env_state_dict().items()}
    again = make(Fragile)
    again.load_env_state_dict(saved)
    assert again.not_reproduced == 0
    for _ in range(9):
        one, other = environment.step(still(environment)), again.step(still(again))
        for name in one.groups:
            assert torch.equal(one.groups[name].observations, other.groups[name].observations)
            assert torch.equal(one.groups[name].rewards, other.groups[name].rewards)
        assert torch.equal(one.first, other.first)


class Nan(Countdown):
    """One agent sees NaN, or receives it."""

    where = "observation"

    def step(self, actions):
        observed, rewards, *rest = super().step(actions)
        if self.where == "observation":
            observed["agent_1"] = np.full(3, np.nan, np.float32)
        else:
            rewards["agent_1"] = float("inf")
        return observed, rewards, *rest


@pytest.mark.parametrize("where", ["observation", "reward"])
def test_a_number_that_is_not_finite_is_named_with_its_agent_and_global_copy(where):
    class Here(Nan):
        pass

    Here.where = where
    environment = make(Here, num_envs=2, first_env=6)
    environment.reset()
    with pytest.raises(InputError, match=rf"{where}s are finite\) at agent agent_1, copy 6"):
        environment.step(still(environment))
