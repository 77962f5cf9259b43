from collections import Counter

import numpy as np
import pytest
import torch
from scripted_steps import GAMMA, GROUPS, Script, everything, transitions

from marl.adders.transitions import TransitionAdder


def expected_transition(trace, k, n, agent):
    """One agent's n-step transition from row k: reward, discount, who acts next, and the row that holds its end."""
    if not trace.rows[k]["active"][agent]:
        return 0.0, 0.0, None, None
    total, factor = 0.0, 1.0
    for m in range(n):
        row = trace.rows[k + m]
        total += factor * row["rewards"][agent]
        factor *= GAMMA
        if row["terminated"][agent]:
            return total, 0.0, False, k + m
        if row["truncated"][agent]:
            return total, factor, row["ended"], k + m
        assert not row["ended"]
    return total, factor, row["after_active"][agent], k + m


def expected_team(trace, k, n):
    factor = 1.0
    for m in range(n):
        row = trace.rows[k + m]
        factor *= GAMMA
        if row["ended"]:
            return factor * (row["truncated"] & ~row["terminated"]).any(), row["after"]["state"]
    return factor, row["after"]["state"]


@pytest.mark.parametrize("mishaps", [0.0, 0.1, 0.4])
@pytest.mark.parametrize("n", [1, 2, 3, 8])
def test_transitions_are_those_that_the_definition_gives(n, mishaps):
    steps, num_envs = 60, 5
    script = Script(0, num_envs, steps, mishaps=mishaps)
    replay = transitions(num_envs, n_step=n)
    script.play(TransitionAdder(replay, discount=GAMMA), 0, steps)
    fields, envs, numbers = everything(replay)
    assert Counter(envs.tolist()) == dict.fromkeys(range(num_envs), steps - n + 1)
    ends = 0
    for i, (copy, k) in enumerate(zip(envs, numbers, strict=True)):
        trace = script.traces[copy]
        row = trace.rows[k]
        for name, agents in GROUPS.items():
            np.testing.assert_array_equal(fields[f"{name}/observations"][i], row["seen"][name])
            for place, agent in enumerate(agents):
                reward, discount, acts, end = expected_transition(trace, k, n, agent)
                assert fields[f"{name}/active"][i, place] == row["active"][agent]
                assert fields[f"{name}/rewards"][i, place] == pytest.approx(reward, abs=1e-5)
                assert fields[f"{name}/discounts"][i, place] == pytest.approx(discount, abs=1e-5)
                if end is None:
                    continue
                ends += end < k + n - 1
                after = trace.rows[end]["after"]
                assert fields[f"{name}/next_active"][i, place] == acts
                np.testing.assert_array_equal(fields[f"{name}/next_observations"][i, place], after[name][place])
                if name == "left":
                    np.testing.assert_array_equal(fields["left/next_action_masks"][i, place], after["masks"][place])
        np.testing.assert_array_equal(fields["left/action_masks"][i], row["seen"]["masks"])
        np.testing.assert_array_equal(fields["left/actions"][i], row["actions"][0][:2])
        np.testing.assert_array_equal(fields["right/actions"][i, 0], row["actions"][1])
        discount, state = expected_team(trace, k, n)
        assert fields["discounts"][i] == pytest.approx(discount, abs=1e-6)
        np.testing.assert_array_equal(fields["state"][i], row["seen"]["state"])
        np.testing.assert_array_equal(fields["next_state"][i], state)
    assert (ends > 0) == (n > 1)


def test_truncated_episode_is_bootstrapped_with_its_own_last_observation():
    replay = transitions(1)
    Script(0, 1, 6, max_length=3, mishaps=0.0).play(TransitionAdder(replay, discount=GAMMA), 0, 6)
    fields, *_ = everything(replay)
    # Observations are (copy, episode, time, agent).
    np.testing.assert_array_equal(fields["left/next_observations"][2, 0], (0, 0, 3, 0))
    np.testing.assert_array_equal(fields["left/observations"][3, 0], (0, 1, 0, 0))
    np.testing.assert_allclose(fields["left/discounts"], GAMMA)
    assert fields["left/next_active"].all()


@pytest.mark.parametrize("n", [1, 2])
def test_what_an_agent_is_given_before_its_first_action_counts_for_its_team(n):
    # Agent left_1 joins at step 1, and is paid 5 and then 7; left_0 is paid 1 each time.
    replay = transitions(1, n_step=n)
    adder = TransitionAdder(replay, discount=GAMMA)
    script = Script(0, 1, 4, mishaps=0.0)

    def timestep(k):
        step = script.timestep(k)
        left = step.groups["left"]
        left.active[0, 1] = k > 0
        left.rewards[0] = torch.tensor([1.0, (0.0, 5.0, 7.0, 0.0)[k]])
        return step

    adder.add_first(timestep(0))
    for k in range(3):
        adder.add(script.actions(k), {}, timestep(k + 1))
    rewards = everything(replay)[0]["left/rewards"]
    expected = [(1.0, 5.0), (1.0, 7.0)] if n == 1 else [(1 + GAMMA, 5 + GAMMA * 7), (1 + GAMMA, 7.0)]
    np.testing.assert_allclose(rewards[:2], expected, rtol=1e-6)
    assert everything(replay)[0]["left/discounts"][0].tolist() == pytest.approx([GAMMA**n, 0.0])


def test_a_second_first_time_step_drops_windows_that_are_being_filled():
    replay = transitions(2, n_step=3)
    adder = TransitionAdder(replay, discount=GAMMA)
    script = Script(0, 2, 10)
    script.play(adder, 0, 2)
    script.play(adder, 0, 4)
    fields, _, numbers = everything(replay)
    assert numbers.tolist() == [0, 1, 0, 1]
    np.testing.assert_array_equal(fields["state"][0], script.traces[0].rows[0]["seen"]["state"])
