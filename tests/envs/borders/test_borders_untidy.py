"""Environments with untidy habits: the right value, or one line that names the agent and the reason."""

import time

import numpy as np
import pytest
import torch
import untidy_environments as untidy

from marl.acting.random_actions import RandomActions
from marl.core import EnvironmentRequest
from marl.envs.conformance import examine_callable
from marl.envs.factory import vectorize
from marl.envs.pettingzoo.arena import PettingZooArena
from marl.errors import InputError

RIGHT = [
    (untidy.Tidy, {"a": 5, "b": 10}),
    (untidy.Masked, {"a": 0, "b": 0}),
    (untidy.MaskedLists, {"a": 5, "b": 5}),
    (untidy.NoInfos, {"a": 5, "b": 10}),
    (untidy.AllKey, {"a": 5, "b": 10}),
    (untidy.PaidNumpy, {"a": 5, "b": 9.5}),
    (untidy.AsksForItem, {"a": 0, "b": 0}),
    (untidy.Integers, {"0": 5, "1": 10}),
    (untidy.Tuples, {"red_0": 5, "red_1": 10}),
    (untidy.Unrelated, {"a": 5, "b": 10}),
    (untidy.Settings, {"a": 5, "b": 10}),
    (untidy.Turns, {"player_0": 2, "player_1": 10}),
    (untidy.TurnsMasked, {"player_0": 0, "player_1": 0}),
    (untidy.TurnsPasses, {"player_0": 3, "player_1": 10}),
    (untidy.TurnsNeverCleared, {"player_0": 4, "player_1": 10}),
    (untidy.TurnsNeverZeroed, {"player_0": 2, "player_1": 10}),
    (untidy.TurnsWithoutSums, {"player_0": 2, "player_1": 10}),
    (untidy.TurnsLegacy, {"player_0": 1, "player_1": 17}),
    (untidy.TurnsAskForItem, {"player_0": 2, "player_1": 10}),
    (untidy.TurnsNoInfos, {"player_0": 2, "player_1": 10}),
    (untidy.TurnsIntegers, {"0": 2, "1": 10}),
    (untidy.TurnsSettings, {"player_0": 2, "player_1": 10}),
]

REFUSED = [
    (untidy.MaskedLate, "at agent a, copy 0, step 5: its info holds an action_mask, and none was seen before"),
    (untidy.MaskLeftOut, "has the action_mask that its space promises) at agent a, copy 0, step 3"),
    (untidy.MaskIsNone, "has the action_mask that its space promises) at agent a, copy 0, step 3"),
    (untidy.MaskIsZero, "at agent a, copy 0, step 3: its action mask is all zero"),
    (untidy.MaskUnpromised, "at agent a, copy 0, its first reset: its observation holds an action_mask"),
    (untidy.MaskLengths, "(the action mask has the shape of its space) at agent a, copy 0, step 8: its shape is (2,)"),
    (untidy.Lengths, "(the observation has the shape of its space) at agent a, copy 0, step 1: its shape is (3,)"),
    (untidy.Heights, "(the observation has the shape of its space) at agent a, copy 0, step 1: its shape is (3, 4, 3)"),
    (untidy.OldResults, "(reset returns observations and infos) at copy 0, its first reset: it returned {"),
    (untidy.OldSteps, "truncations, infos) at copy 0, step 1: it returned 4 results"),
    (untidy.NoSeed, "(reset takes a seed)"),
    (untidy.StaysListed, "leaves env.agents) at agent a, copy 0, step 2: it is still listed"),
    (untidy.PaidNothing, "(a reward is a number) at agent b, copy 0, step 3: it is None"),
    (untidy.PaidArray, "(a reward is a number) at agent b, copy 0, step 3: it is array([1., 2.])"),
    (untidy.PaidText, "(a reward is a number) at agent b, copy 0, step 3: it is '1.0'"),
    (untidy.PaidTooMuch, "(rewards fit into float32) at agent b, copy 0, step 3: it is 1e+39"),
    (untidy.PaidNan, "(rewards are finite) at agent b, copy 0, step 3: it is nan"),
    (untidy.SharedArrays, "(copies of an environment share no arrays) at agent a, copy 0, step 1"),
    (untidy.SameNames, "agents need names that differ when they are written down, and these are 1, 1"),
    (untidy.TurnsMaskedLate, "at agent player_1, copy 0, turn 50: its info holds an action_mask"),
    (untidy.TurnsOnlyCumulative, "at agent player_0, copy 0, turn 2: last() shows 1.0, and rewards held 0.0"),
    (untidy.TurnsOnlyAtTheEnd, "at agent player_1, copy 0, turn 4: last() shows 10.0, and rewards held 0.0"),
    (untidy.TurnsPaidInTheGrave, "at agent player_0, copy 0, turn 2: last() shows 5.0 at its end, of which 0"),
    (untidy.TurnsBonus, "at agent player_1, copy 0, turn 4: last() shows 17.0 at its end, of which 10.0 came"),
    (untidy.TurnsPaidNothing, "(a reward is a number) at agent player_0, copy 0, turn 2: it is None"),
    (untidy.TurnsPaidTooMuch, "(rewards fit into float32) at agent player_0, copy 0, turn 1: it is 1e+39"),
]


@pytest.fixture(autouse=True)
def settings():
    """Puts back what a test may have let through."""
    kept = torch.get_default_dtype(), torch.is_grad_enabled(), np.geterr()
    yield
    torch.set_default_dtype(kept[0])
    torch.set_grad_enabled(kept[1])
    np.seterr(**kept[2])


def mean_returns(make, num_envs, steps):
    """Each agent's rewards per episode under random legal play."""
    environment = vectorize(make)(EnvironmentRequest(num_envs=num_envs))
    choose = RandomActions(environment.spec, num_envs=num_envs)
    timestep, episodes, sums = environment.reset(), 0, {}
    for _ in range(steps):
        timestep = environment.step(choose(timestep))
        for group in environment.spec.groups:
            for agent, paid in zip(group.agents, timestep.groups[group.name].rewards.sum(0).tolist(), strict=True):
                sums[agent] = sums.get(agent, 0.0) + paid
        episodes += 0 if timestep.final is None else len(timestep.final.envs)
    environment.close()
    return {agent: total / episodes for agent, total in sums.items()}


@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize(("make", "returns"), RIGHT, ids=[make.__name__ for make, _ in RIGHT])
def test_habits_that_lose_nothing_give_the_right_returns(make, returns, num_envs):
    assert mean_returns(make, num_envs, 40) == pytest.approx(returns)


@pytest.mark.parametrize("num_envs", [2, 3])
@pytest.mark.parametrize(("make", "line"), REFUSED, ids=[make.__name__ for make, _ in REFUSED])
def test_habits_that_lose_something_are_refused_in_one_line(make, line, num_envs):
    with pytest.raises(InputError) as refused:
        mean_returns(make, num_envs, 60)
    assert line in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("make", [make for make, _ in RIGHT[1:]], ids=[make.__name__ for make, _ in RIGHT[1:]])
def test_the_doctor_passes_what_loses_nothing(make):
    assert not [finding for finding in examine_callable(make, steps=8) if finding.fatal and not finding.ok]


@pytest.mark.parametrize("make", [make for make, _ in REFUSED], ids=[make.__name__ for make, _ in REFUSED])
def test_the_doctor_fails_what_loses_something_once_and_without_repeating_its_rule(make):
    failed = [finding for finding in examine_callable(make, steps=60) if finding.fatal and not finding.ok]
    assert len(failed) == 1
    assert failed[0].rule not in failed[0].message


@pytest.mark.parametrize("make", [untidy.Settings, untidy.TurnsSettings])
def test_what_an_environment_sets_for_the_whole_process_is_put_back_after_every_call(make):
    kept = torch.get_default_dtype(), torch.is_grad_enabled(), np.geterr()
    environment = vectorize(make)(EnvironmentRequest(num_envs=2))
    choose = RandomActions(environment.spec, num_envs=2)
    timestep = environment.reset()
    for _ in range(12):
        assert (torch.get_default_dtype(), torch.is_grad_enabled(), np.geterr()) == kept
        timestep = environment.step(choose(timestep))
    assert "torch's default dtype" in environment.changed_settings
    assert timestep.groups[environment.spec.groups[0].name].rewards.dtype == torch.float32


def test_the_doctor_notes_what_an_environment_sets_for_the_whole_process():
    (note,) = [
        one for one in examine_callable(untidy.Settings, steps=5) if one.rule.startswith("it leaves the process")
    ]
    assert not note.ok
    assert not note.fatal
    for what in ("grad mode", "default dtype", "handling of errors", "random's", "numpy's global", "torch's generator"):
        assert what in note.message


def test_games_are_checked_like_training():
    arena = PettingZooArena(untidy.TurnsBonus, 1)
    arena.begin([7])
    for _ in range(3):
        arena.step(np.array([0]), [np.zeros((1, 2), np.int64)])
    with pytest.raises(InputError, match=r"last\(\) shows 17.0"):
        arena.step(np.array([0]), [np.zeros((1, 2), np.int64)])


def test_the_doctor_keeps_to_its_time_and_says_what_it_left_out():
    class Slow(untidy.Tidy):
        def step(self, actions):
            time.sleep(0.005)
            return super().step(actions)

    begun = time.monotonic()
    findings = examine_callable(Slow, steps=60, seconds=0.5)
    assert time.monotonic() - begun < 3
    assert findings[-1].rule == "there was time for all checks"
    assert not findings[-1].ok
    assert not findings[-1].fatal
    assert "left out" in findings[-1].message
    assert "its steps are what marl promises" in [finding.rule for finding in findings if finding.ok]
