"""Returns and advantages against literal arrays, and against their definitions on random masks."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from marl.learning.returns import _gae_of_moves, discounted_returns, gae, lambda_returns, n_step_returns

# Inputs and expected results of rlax's multistep_test.py (GAE to three decimals); there a row is a sequence, here a
# column is.
REWARDS = torch.tensor([[1.0, 0.0, -1.0, 0.0, 1.0], [0.5, 0.8, -0.7, 0.0, 2.1]]).T
DISCOUNTS = torch.tensor([[0.5, 0.9, 1.0, 0.5, 0.8], [0.9, 0.5, 0.3, 0.8, 0.7]]).T
NEXT_VALUES = torch.tensor([[3.0, 1.0, 5.0, -5.0, 3.0], [-1.7, 1.2, 2.3, 2.2, 2.7]]).T
LAMBDA_RETURNS = torch.tensor(
    [[1.6460547, 0.72281253, 0.7375001, 0.6500001, 3.4], [0.7866317, 0.9913063, 0.1101501, 2.834, 3.99]]
).T
DISCOUNTED_RETURNS = torch.tensor([[1.315, 0.63, 0.7, 1.7, 3.4], [1.33592, 0.9288, 0.2576, 3.192, 3.99]]).T
N_STEP_RETURNS = {
    3: torch.tensor([[2.8, -3.15, 0.7, 1.7, 3.4], [1.2155, 0.714, 0.2576, 3.192, 3.99]]).T,
    5: DISCOUNTED_RETURNS,
    7: DISCOUNTED_RETURNS,
}
GAE_REWARDS = torch.tensor([[0.0, 0.0, 1.0, 0.0, -0.5], [0.0, 0.0, 0.0, 0.0, 1.0]]).T
GAE_VALUES = torch.tensor([[1.0, 4.0, -3.0, -2.0, -1.0, -1.0], [-3.0, -2.0, -1.0, 0.0, 5.0, -1.0]]).T
GAE_ADVANTAGES = {
    1.0: ([-1.45118, -4.4557, 2.5396, 0.5249, -0.49], [3.0, 2.0, 1.0, 0.0, -4.9]),
    0.7: ([-0.676979, -5.248167, 2.4846, 0.6704, -0.49], [2.2899, 1.73, 1.0, 0.0, -4.9]),
    0.4: ([0.56731, -6.042, 2.3431, 0.815, -0.49], [1.725, 1.46, 1.0, 0.0, -4.9]),
}

T, E, A = 6, 2, 3


def test_lambda_returns_are_those_of_rlax():
    actual = lambda_returns(rewards=REWARDS, discounts=DISCOUNTS, next_values=NEXT_VALUES, lambda_=0.75)
    torch.testing.assert_close(actual, LAMBDA_RETURNS, rtol=1e-5, atol=0)


def test_discounted_returns_are_those_of_rlax():
    actual = discounted_returns(rewards=REWARDS, discounts=DISCOUNTS, bootstrap=NEXT_VALUES[-1])
    torch.testing.assert_close(actual, DISCOUNTED_RETURNS, rtol=1e-5, atol=0)


@pytest.mark.parametrize("n", [3, 5, 7])
def test_n_step_returns_are_those_of_rlax(n):
    actual = n_step_returns(rewards=REWARDS, discounts=DISCOUNTS, next_values=NEXT_VALUES, n=n)
    torch.testing.assert_close(actual, N_STEP_RETURNS[n], rtol=1e-5, atol=0)


@pytest.mark.parametrize("lambda_", [1.0, 0.7, 0.4])
@pytest.mark.parametrize("copy", [0, 1])
@pytest.mark.parametrize("path", ["all active", "None", "general"])
def test_advantages_are_those_of_rlax(lambda_, copy, path):
    values = GAE_VALUES[:, copy].view(6, 1, 1)
    ended = torch.zeros(5, 1, 1, dtype=torch.bool)
    ended[3] = copy == 1  # rlax has the discount 0 there.
    active = torch.ones(6, 1, 2, dtype=torch.bool)
    active[:, :, 1] = path != "general"  # A second agent that never acts forces the general path.
    result = gae(
        rewards=GAE_REWARDS[:, copy].view(5, 1, 1).expand(-1, -1, 2),
        values=values[:-1].expand(-1, -1, 2),
        next_values=values[1:].expand(-1, -1, 2),
        active=None if path == "None" else active,
        terminated=ended.expand(-1, -1, 2),
        ended=ended.expand(-1, -1, 2),
        discount=[0.99, 0.9][copy],
        lambda_=lambda_,
    )
    expected = torch.tensor(GAE_ADVANTAGES[lambda_][copy])
    torch.testing.assert_close(result.advantages[:, 0, 0], expected, rtol=0, atol=1e-3)
    torch.testing.assert_close(result.returns[:, 0, 0], expected + GAE_VALUES[:-1, copy], rtol=0, atol=1e-3)
    assert result.valid[:, 0, 0].all()


def one_agent(*, active, rewards, values, next_values, terminated=(), ended=(), discount=0.5, lambda_=1.0):
    """GAE of one agent in one copy, as lists; ends are given by their rows."""
    length = len(rewards)
    flags = [torch.tensor([row in rows for row in range(length)]).view(-1, 1, 1) for rows in (terminated, ended)]
    result = gae(
        rewards=torch.tensor(rewards).view(-1, 1, 1),
        values=torch.tensor(values).view(-1, 1, 1),
        next_values=torch.tensor(next_values).view(-1, 1, 1),
        active=torch.tensor(active, dtype=torch.bool).view(-1, 1, 1),
        terminated=flags[0],
        ended=flags[1],
        discount=discount,
        lambda_=lambda_,
    )
    return tuple(tensor.flatten().tolist() for tensor in result)


def test_rewards_between_turns_belong_to_the_last_move():
    # Moves at rows 0 and 2; the game ends with the other's move at row 3, which costs this agent 8.
    advantages, returns, valid = one_agent(
        active=[1, 0, 1, 0, 1],
        rewards=[1.0, 2.0, 4.0, -8.0],
        values=[10.0, math.nan, 20.0, math.nan],
        next_values=[math.nan, math.nan, math.nan, 99.0],
        terminated=[3],
        ended=[3],
    )
    # delta_2 = 4 - 8 - 20 = -24; delta_0 = 1 + 2 + 20/2 - 10 = 3, and A_0 = 3 - 24/2.
    assert advantages == [-9.0, 0.0, -24.0, 0.0]
    assert returns == [1.0, 0.0, -4.0, 0.0]
    assert valid == [True, False, True, False]


def test_terminated_episode_is_not_bootstrapped_and_truncated_one_is():
    common = {
        "active": [1, 1, 1],
        "rewards": [0.0, 1.0],
        "values": [0.0, 0.0],
        "next_values": [4.0, 8.0],
        "lambda_": 0.0,
    }
    assert one_agent(**common, terminated=[0], ended=[0])[0] == [0.0, 5.0]
    assert one_agent(**common, ended=[0])[0] == [2.0, 5.0]
    assert one_agent(**common)[0] == [0.0, 5.0]


def test_last_move_without_a_known_outcome_is_not_valid_and_does_not_count():
    # The agent moved at rows 0 and 1 and waits at row T; values of both are known, the outcome of the second is not.
    advantages, returns, valid = one_agent(
        active=[1, 1, 0, 0], rewards=[1.0, 50.0, 50.0], values=[2.0, 4.0, 0.0], next_values=[9.0, 9.0, 9.0]
    )
    assert valid == [True, False, False]
    assert advantages == [1.0 + 0.5 * 4.0 - 2.0, 0.0, 0.0]
    assert returns == [3.0, 0.0, 0.0]


def test_rewards_before_the_first_move_and_after_death_belong_to_nobody():
    # The agent joins at row 1, dies on the way to row 2, and its copy's episode ends on the way to row 4.
    advantages, _, valid = one_agent(
        active=[0, 1, 0, 0, 1],
        rewards=[100.0, 1.0, 100.0, 100.0],
        values=[0.0, 0.0, 0.0, 0.0],
        next_values=[9.0, 9.0, 9.0, 9.0],
        terminated=[1],
        ended=[1, 3],
    )
    assert advantages == [0.0, 1.0, 0.0, 0.0]
    assert valid == [False, True, False, False]


def test_termination_without_an_end_is_ignored():
    common = {"active": [1, 0, 1], "rewards": [0.0, 0.0], "values": [0.0, 0.0], "next_values": [4.0, 8.0]}
    assert one_agent(**common, terminated=[1]) == one_agent(**common)


def test_what_a_terminated_agent_would_have_been_worth_may_be_nan():
    advantages, _, _ = one_agent(
        active=[1, 1], rewards=[1.0], values=[0.0], next_values=[math.nan], terminated=[0], ended=[0]
    )
    assert advantages == [1.0]


def gae_by_definition(rewards, values, next_values, active, terminated, ended, discount, lambda_):
    """One agent at a time, one move at a time, forwards: O(T²)."""
    length = rewards.shape[0]
    advantages, valid = torch.zeros_like(rewards), torch.zeros_like(ended)
    for copy, agent in [(e, a) for e in range(rewards.shape[1]) for a in range(rewards.shape[2])]:
        deltas: dict[int, tuple[float, int | None]] = {}
        for row in range(length):
            if not active[row, copy, agent]:
                continue
            reward = 0.0
            for end in range(row, length):
                reward += rewards[end, copy, agent].item()
                if ended[end, copy, agent]:
                    value = 0.0 if terminated[end, copy, agent] else next_values[end, copy, agent].item()
                    following = None
                elif end + 1 == length and active[length, copy, agent]:
                    value, following = next_values[end, copy, agent].item(), None
                elif end + 1 < length and active[end + 1, copy, agent]:
                    value, following = values[end + 1, copy, agent].item(), end + 1
                else:
                    continue
                deltas[row] = (reward + discount * value - values[row, copy, agent].item(), following)
                break
        for row in deltas:
            valid[row, copy, agent] = True
            step: int | None = row
            weight = 1.0
            while step in deltas:
                delta, step = deltas[step]
                advantages[row, copy, agent] += weight * delta
                weight *= discount * lambda_
    return advantages, torch.where(valid, advantages + values.nan_to_num(), 0.0), valid


def random_problem(seed: int, activity: float, ends: float, length: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def chance(probability: float, rows: int) -> Tensor:
        return torch.rand(rows, E, A, generator=generator) < probability

    def numbers() -> Tensor:
        return torch.randn(length, E, A, generator=generator, dtype=torch.float64)

    ended = chance(ends, length)
    return {
        "rewards": numbers(),
        "values": numbers(),
        "next_values": numbers(),
        "active": chance(activity, length + 1),
        "terminated": chance(0.5, length),
        "ended": ended,
    }


problems = {
    "seed": st.integers(0, 2**32),
    "activity": st.sampled_from([0.0, 0.2, 0.5, 0.9, 1.0]),
    "ends": st.sampled_from([0.0, 0.2, 0.6]),
    "length": st.integers(1, 8),
    "discount": st.sampled_from([0.0, 0.9, 1.0]),
    "lambda_": st.sampled_from([0.0, 0.7, 1.0]),
}


@given(**problems)
def test_gae_is_its_definition_whoever_acts_when(seed, activity, ends, length, discount, lambda_):
    problem = random_problem(seed, activity, ends, length)
    expected = gae_by_definition(**problem, discount=discount, lambda_=lambda_)
    # What must not be read, cannot do harm.
    active, ended = problem["active"], problem["ended"]
    problem["values"] = problem["values"].masked_fill(~active[:-1], math.nan)
    unread = ~ended
    unread[-1] = False
    problem["next_values"] = problem["next_values"].masked_fill(unread, math.nan)
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        typed = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in problem.items()}
        actual = gae(**typed, discount=discount, lambda_=lambda_)
        assert actual.advantages.dtype == actual.returns.dtype == dtype
        torch.testing.assert_close(actual.advantages.double(), expected[0], rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(actual.returns.double(), expected[1], rtol=tolerance, atol=tolerance)
        assert torch.equal(actual.valid, expected[2])


@given(**problems)
def test_where_all_act_both_paths_give_the_same_bits(seed, activity, ends, length, discount, lambda_):
    problem = {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in random_problem(seed, 1.0, ends, length).items()
    }
    bootstrap = problem["next_values"].masked_fill(problem["terminated"] & problem["ended"], 0.0)
    general = _gae_of_moves(
        problem["rewards"], problem["values"], bootstrap, problem["active"], problem["ended"], discount, lambda_
    )
    fast = gae(**problem, discount=discount, lambda_=lambda_)
    without = gae(**{**problem, "active": None}, discount=discount, lambda_=lambda_)
    for one, two, three in zip(general, fast, without, strict=True):
        assert torch.equal(one, two)
        assert torch.equal(one, three)


def test_gae_leaves_its_arguments_alone_and_asks_for_no_gradient():
    for activity in (0.5, 1.0):
        problem = random_problem(1, activity, 0.3, T)
        problem["values"].requires_grad_()
        before = {name: tensor.detach().clone() for name, tensor in problem.items()}
        result = gae(**problem, discount=0.9, lambda_=0.9)
        assert not result.advantages.requires_grad
        for name, tensor in problem.items():
            assert torch.equal(tensor, before[name])


def test_a_rank_without_copies_gets_empty_advantages():
    for active in (torch.ones(4, 0, 2, dtype=torch.bool), None):
        empty = torch.zeros(3, 0, 2)
        result = gae(
            rewards=empty,
            values=empty,
            next_values=empty,
            active=active,
            terminated=empty.bool(),
            ended=empty.bool(),
            discount=0.9,
            lambda_=0.9,
        )
        assert [tensor.shape for tensor in result] == [empty.shape] * 3


def test_wrong_shapes_are_refused_by_name():
    problem = random_problem(0, 0.5, 0.2, T)
    with pytest.raises(ValueError, match=r"active has shape \(6, 2, 3\), not \(7, 2, 3\)"):
        gae(**{**problem, "active": problem["active"][1:]}, discount=1.0, lambda_=1.0)
    with pytest.raises(ValueError, match="next_values has shape"):
        gae(**{**problem, "next_values": problem["next_values"][..., :1]}, discount=1.0, lambda_=1.0)
    with pytest.raises(ValueError, match="no time step"):
        gae(**{name: tensor[:0] for name, tensor in problem.items()}, discount=1.0, lambda_=1.0)
    with pytest.raises(ValueError, match="discounts has shape"):
        lambda_returns(rewards=REWARDS, discounts=DISCOUNTS[1:], next_values=NEXT_VALUES, lambda_=1.0)
    with pytest.raises(ValueError, match="at least 1, not 0"):
        n_step_returns(rewards=REWARDS, discounts=DISCOUNTS, next_values=NEXT_VALUES, n=0)
    with pytest.raises(ValueError, match="bootstrap has shape"):
        discounted_returns(rewards=REWARDS, discounts=DISCOUNTS, bootstrap=NEXT_VALUES)


def random_sequences(seed: int, length: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rewards, next_values = torch.randn(2, length, 5, generator=generator, dtype=torch.float64)
    discounts = torch.rand(length, 5, generator=generator, dtype=torch.float64)
    discounts = discounts.masked_fill(torch.rand(length, 5, generator=generator) < 0.2, 0.0)
    return rewards, discounts, next_values, torch.rand(length, 5, generator=generator) < 0.3


def n_steps_by_definition(rewards, discounts, next_values, n, ended):
    """r_t + γ_t r_{t+1} + … + γ_t ⋯ γ_{t+k-1} V_{t+k}, with k the least of n and the steps to an end."""
    returns = torch.zeros_like(rewards)
    length, width = rewards.shape
    for row in range(length):
        for column in range(width):
            weight = 1.0
            for step in range(row, min(row + n, length)):
                returns[row, column] += weight * rewards[step, column]
                weight *= discounts[step, column].item()
                if step == min(row + n, length) - 1 or ended[step, column]:
                    returns[row, column] += weight * next_values[step, column]
                    break
    return returns


@given(st.integers(0, 2**32), st.integers(1, 8), st.integers(1, 10), st.booleans())
def test_n_step_returns_are_their_definition(seed, length, n, with_ends):
    rewards, discounts, next_values, ended = random_sequences(seed, length)
    expected = n_steps_by_definition(rewards, discounts, next_values, n, ended & with_ends)
    actual = n_step_returns(
        rewards=rewards, discounts=discounts, next_values=next_values, n=n, ended=ended if with_ends else None
    )
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


@given(st.integers(0, 2**32), st.integers(1, 8), st.sampled_from([0.0, 0.3, 0.9, 1.0]), st.booleans())
def test_lambda_returns_are_the_weighted_mean_of_n_step_returns(seed, length, lambda_, with_ends):
    rewards, discounts, next_values, ended = random_sequences(seed, length)
    # (1-λ) Σ λ^{n-1} G^{(n)}, the last return taking the rest of the weight (Sutton and Barto 2018, equation 12.3).
    # Returns of more steps than there are, up to an end, are all the same, so the formula holds there too.
    n_step = [
        n_steps_by_definition(rewards, discounts, next_values, n, ended & with_ends) for n in range(1, length + 1)
    ]
    expected = lambda_ ** (length - 1) * n_step[-1]
    for n in range(1, length):
        expected += (1 - lambda_) * lambda_ ** (n - 1) * n_step[n - 1]
    actual = lambda_returns(
        rewards=rewards,
        discounts=discounts,
        next_values=next_values,
        lambda_=lambda_,
        ended=ended if with_ends else None,
    )
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


@given(st.integers(0, 2**32), st.integers(1, 8))
def test_discounted_returns_are_lambda_returns_without_values(seed, length):
    rewards, discounts, next_values, _ = random_sequences(seed, length)
    with_bootstrap = discounted_returns(rewards=rewards, discounts=discounts, bootstrap=next_values[-1])
    expected = lambda_returns(rewards=rewards, discounts=discounts, next_values=next_values, lambda_=1.0)
    torch.testing.assert_close(with_bootstrap, expected, rtol=1e-12, atol=1e-12)
    without = discounted_returns(rewards=rewards, discounts=discounts)
    expected = lambda_returns(
        rewards=rewards, discounts=discounts, next_values=torch.zeros_like(next_values), lambda_=1.0
    )
    torch.testing.assert_close(without, expected, rtol=1e-12, atol=1e-12)


@given(st.integers(0, 2**32))
def test_advantages_with_lambda_are_lambda_returns_minus_values(seed):
    problem = random_problem(seed, 1.0, 0.3, T)
    result = gae(**problem, discount=0.9, lambda_=0.7)
    values, ended = problem["values"], problem["ended"]
    following = torch.cat((values[1:], problem["next_values"][-1:]))
    returns = lambda_returns(
        rewards=problem["rewards"],
        discounts=torch.full_like(values, 0.9).masked_fill(ended & problem["terminated"], 0.0),
        next_values=torch.where(ended, problem["next_values"], following),
        lambda_=0.7,
        ended=ended,
    )
    torch.testing.assert_close(result.returns, returns, rtol=1e-12, atol=1e-12)


def test_a_sequence_whose_stored_part_ends_early_ignores_the_padding():
    rewards, discounts, next_values, _ = random_sequences(0, 6)
    ended = torch.zeros_like(rewards, dtype=torch.bool)
    ended[3] = True
    padding = torch.full_like(rewards, 1e30)
    padded = [torch.cat((tensor[:4], padding[4:])) for tensor in (rewards, discounts, next_values)]
    for compute in (
        lambda r, d, v, e: n_step_returns(rewards=r, discounts=d, next_values=v, n=3, ended=e),
        lambda r, d, v, e: lambda_returns(rewards=r, discounts=d, next_values=v, lambda_=0.8, ended=e),
    ):
        expected = compute(rewards[:4], discounts[:4], next_values[:4], None)
        torch.testing.assert_close(compute(*padded, ended)[:4], expected)
