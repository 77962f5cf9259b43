import itertools
import warnings

import numpy as np
import pytest

from marl.envs import matrix_games
from marl.envs.linear_quadratic import LinearQuadratic, linear_quadratic, make_task, optimal_gains, optimal_return
from marl.errors import InputError

with warnings.catch_warnings():
    # The checks import an environment the old way.
    warnings.simplefilter("ignore", DeprecationWarning)
    from pettingzoo.test import parallel_api_test

GAMES = (
    matrix_games.two_step,
    matrix_games.climbing,
    matrix_games.penalty,
    matrix_games.qtran,
    matrix_games.rock_paper_scissors,
    matrix_games.prisoners_dilemma,
)


def play(game, joint_actions):
    """Returns of all agents when these joint actions are played until the game is over."""
    game.reset(seed=0)
    returns = dict.fromkeys(game.possible_agents, 0.0)
    for actions in joint_actions:
        _, rewards, terminated, truncated, _ = game.step(dict(zip(game.possible_agents, actions, strict=True)))
        for agent, reward in rewards.items():
            returns[agent] += reward
        if not game.agents:
            assert all(terminated.values())
            assert not any(truncated.values())
            return returns
    raise AssertionError("the game goes on")


def team_return(game, joint_actions):
    return sum(play(game, joint_actions).values())


@pytest.mark.parametrize("observe", ["state", "constant"])
@pytest.mark.parametrize("make", GAMES, ids=lambda make: make.__name__)
def test_games_are_valid_parallel_environments(make, observe):
    parallel_api_test(make(observe=observe), num_cycles=100)


@pytest.mark.parametrize("make", GAMES[1:], ids=lambda make: make.__name__)
def test_remembered_actions_are_part_of_the_state(make):
    game = make(steps=3, remember_actions=True)
    parallel_api_test(game, num_cycles=20)
    observations, _ = game.reset()
    choices = game.action_space("agent_0").n
    assert observations["agent_0"][1:].sum() == 0
    observations, *_ = game.step({"agent_0": 1, "agent_1": 0})
    expected = np.concatenate(([1.0], np.eye(choices)[1], np.eye(choices)[0]))
    np.testing.assert_array_equal(observations["agent_1"], expected)
    np.testing.assert_array_equal(game.state(), expected)


def test_best_return_of_the_two_step_game_is_8_and_the_safe_branch_pays_7():
    # Rashid et al. 2018, section 5.
    pairs = list(itertools.product(range(2), repeat=2))
    returns = {(a, b): team_return(matrix_games.two_step(), (a, b)) for a in pairs for b in pairs}
    assert max(returns.values()) == 8.0
    assert {value for (first, _), value in returns.items() if first[0] == 0} == {7.0}
    assert {second: value for (first, second), value in returns.items() if first == (1, 0)} == {
        (0, 0): 0.0,
        (0, 1): 1.0,
        (1, 0): 1.0,
        (1, 1): 8.0,
    }


def test_second_agents_first_action_does_not_matter_in_the_two_step_game():
    for second in itertools.product(range(2), repeat=2):
        for first in range(2):
            assert team_return(matrix_games.two_step(), [(first, 0), second]) == team_return(
                matrix_games.two_step(), [(first, 1), second]
            )


def test_state_shows_the_stage_even_where_observations_are_constant():
    game = matrix_games.two_step(observe="constant")
    observations, _ = game.reset()
    np.testing.assert_array_equal(game.state(), (1, 0, 0))
    np.testing.assert_array_equal(observations["agent_0"], (1,))
    game.step({"agent_0": 1, "agent_1": 0})
    np.testing.assert_array_equal(game.state(), (0, 0, 1))


@pytest.mark.parametrize(
    ("make", "best", "safe"),
    # 25 steps, best sums as in Papoudakis et al. 2021: 275 and 250; published learners 175 and 50.
    [
        (matrix_games.climbing, ((0, 0), 275.0), ((1, 1), 175.0)),
        (matrix_games.penalty, ((0, 2), 250.0), ((1, 1), 50.0)),
    ],
)
def test_repeated_games_have_the_published_sums(make, best, safe):
    pairs = itertools.product(range(3), repeat=2)
    assert max(team_return(make(), [pair] * 25) for pair in pairs) == best[1]
    assert team_return(make(), [best[0]] * 25) == best[1]
    assert team_return(make(), [safe[0]] * 25) == safe[1]


def test_penalty_punishes_mixing_up_the_two_best_pairs():
    assert team_return(matrix_games.penalty(steps=1), [(0, 0)]) == -100.0
    assert team_return(matrix_games.penalty(k=-25, steps=1), [(2, 2)]) == -25.0
    assert team_return(matrix_games.penalty(steps=1), [(2, 0)]) == 10.0


def test_nonmonotonic_game_pays_8_for_one_pair_and_punishes_going_there_alone():
    # Son et al. 2019, table 1a.
    returns = [[team_return(matrix_games.qtran(), [(a, b)]) for b in range(3)] for a in range(3)]
    assert returns == [[8, -12, -12], [-12, 0, 0], [-12, 0, 0]]


def test_rock_paper_scissors_is_zero_sum_and_the_even_mix_earns_nothing():
    game = matrix_games.rock_paper_scissors()
    first, second = game.payoffs[0]
    np.testing.assert_array_equal(first, -second)
    np.testing.assert_allclose(np.full(3, 1 / 3) @ first, 0.0)
    assert play(game, [(1, 0)]) == {"agent_0": 1.0, "agent_1": -1.0}  # paper beats rock
    assert play(game, [(1, 2)]) == {"agent_0": -1.0, "agent_1": 1.0}  # scissors beat paper


def test_defection_dominates_in_the_prisoners_dilemma_but_both_would_rather_cooperate():
    game = matrix_games.prisoners_dilemma()
    first, second = game.payoffs[0]
    assert (first[1] > first[0]).all()
    assert (second[:, 1] > second[:, 0]).all()
    assert play(game, [(0, 1)]) == {"agent_0": 0.0, "agent_1": 5.0}
    assert team_return(game, [(0, 0)]) > team_return(game, [(1, 1)])


@pytest.mark.parametrize(
    "make",
    [
        lambda: matrix_games.climbing(steps=0),
        lambda: matrix_games.penalty(k=1.0),
        lambda: matrix_games.qtran(observe="nothing"),
        lambda: matrix_games.prisoners_dilemma(reward=6.0),
        lambda: linear_quadratic(num_agents=0),
        lambda: linear_quadratic(dimensions=3),
        lambda: linear_quadratic(noise=-1.0),
    ],
)
def test_games_refuse_senseless_arguments(make):
    with pytest.raises(InputError):
        make()


@pytest.mark.parametrize("dimensions", [1, 2])
def test_linear_quadratic_task_is_a_valid_parallel_environment(dimensions):
    parallel_api_test(linear_quadratic(dimensions=dimensions, noise=0.1), num_cycles=60)


def control(environment: LinearQuadratic, gains, *, seed):
    """Plays one episode with linear feedback; returns the first state, the return and the largest force."""
    environment.reset(seed=seed)
    first, total, largest = environment._x.copy(), 0.0, 0.0
    for gain in gains:
        forces = -gain @ environment._x
        largest = max(largest, float(np.abs(forces).max()))
        _, rewards, *_ = environment.step(dict(zip(environment.agents, forces[:, None], strict=True)))
        total += sum(rewards.values())
    assert not environment.agents
    return first, total, largest


@pytest.mark.parametrize(("num_agents", "dimensions"), [(1, 1), (2, 1), (2, 2), (3, 2), (5, 2)])
def test_optimal_gains_earn_the_optimal_return_without_touching_the_bounds(num_agents, dimensions):
    environment = linear_quadratic(num_agents=num_agents, dimensions=dimensions)
    gains, _ = optimal_gains(environment.task)
    for seed in range(5):
        first, total, largest = control(environment, gains, seed=seed)
        assert total == pytest.approx(optimal_return(environment.task, first), rel=1e-6)
        assert largest < environment.action_space("agent_0").high[0]


def test_no_sequence_of_forces_beats_the_optimum():
    # Least squares over all forces of an episode at once: the same optimum by another road.
    task = make_task(3, horizon=6)
    size, num_agents = task.B.shape
    first = np.array((1.0, -0.5, 0.3, 0.8))
    free = [np.linalg.matrix_power(task.A, t) @ first for t in range(task.horizon)]
    forced = np.zeros((task.horizon, size, task.horizon, num_agents))
    for t in range(task.horizon):
        for s in range(t):
            forced[t, :, s] = np.linalg.matrix_power(task.A, t - s - 1) @ task.B
    root_q, root_r = np.sqrt(task.Q), np.sqrt(task.R)
    rows = [np.concatenate([root_q @ forced[t].reshape(size, -1) for t in range(task.horizon)])]
    rows.append(np.kron(np.eye(task.horizon), root_r))
    target = np.concatenate([*(-root_q @ x for x in free), np.zeros(task.horizon * num_agents)])
    _, residual, *_ = np.linalg.lstsq(np.concatenate(rows), target, rcond=None)
    assert -residual[0] == pytest.approx(optimal_return(task, first), rel=1e-9)


def test_mean_optimal_return_counts_first_states_and_noise():
    environment = linear_quadratic(noise=0.1, horizon=10)
    gains, _ = optimal_gains(environment.task)
    totals = [control(environment, gains, seed=seed)[1] for seed in range(1500)]
    error = np.std(totals) / np.sqrt(len(totals))
    assert abs(np.mean(totals) - optimal_return(environment.task)) < 4 * error


def test_doing_nothing_is_clearly_worse_than_the_optimum():
    environment = linear_quadratic()
    idle = np.zeros((environment.task.horizon, *environment.task.B.T.shape))
    totals = [control(environment, idle, seed=seed)[1] for seed in range(200)]
    assert np.mean(totals) < 1.5 * optimal_return(environment.task)
