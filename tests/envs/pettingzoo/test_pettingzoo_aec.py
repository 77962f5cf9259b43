import numpy as np
import pytest
import torch
from toy_environments import Countdown, Relay

from marl.core import EnvironmentRequest
from marl.envs.factory import make_factory, vectorize
from marl.envs.pettingzoo.rows import ApiError
from marl.envs.pettingzoo.vector import PettingZooVectorEnvironment
from marl.testing.environment_checks import check_environment


def relay(**request):
    request.setdefault("num_envs", 2)
    environment = PettingZooVectorEnvironment(Relay, EnvironmentRequest(**request))
    return environment, environment.reset()


def step(environment):
    (group,) = environment.spec.groups
    return environment.step({group.name: torch.zeros(environment.num_envs, group.size, dtype=torch.int64)})


def steps(environment, count):
    for _ in range(count):
        step(environment)


def test_one_agent_is_active_and_only_its_row_is_seen():
    environment, timestep = relay()
    (name,) = timestep.groups
    assert environment.spec.turn_based
    assert timestep.groups[name].active.tolist() == [[True, False, False]] * 2
    for expected, row in [([0, 1, 0], [1, 1]), ([0, 0, 1], [2, 2])]:
        timestep = step(environment)
        assert timestep.groups[name].active[0].int().tolist() == expected
        assert timestep.groups[name].observations[0][timestep.groups[name].active[0]].tolist() == [row]
    # Whoever waits keeps what it saw at its own last turn.
    assert timestep.groups[name].observations[0].tolist() == [[0, 0], [1, 1], [2, 2]]
    # The state shows what everybody sees now.
    assert timestep.state[0].tolist() == [0, 2, 1, 2, 2, 2]


def test_a_reward_that_comes_between_two_turns_is_written_when_it_comes():
    environment, timestep = relay()
    (name,) = timestep.groups
    rewards = [step(environment).groups[name].rewards[0].tolist() for _ in range(4)]
    assert rewards == [[0, 1, 0], [0, 0, 1], [1, 0, 0], [0, 1, 0]]


def test_an_agent_that_dies_leaves_the_round_and_the_others_go_on():
    environment, timestep = relay()
    (name,) = timestep.groups
    for _ in range(5):
        timestep = step(environment)
    assert timestep.groups[name].terminated.tolist() == [[False, True, False]] * 2
    assert timestep.groups[name].observations[0, 1].tolist() == [1, 5]
    assert timestep.final is None
    movers = [timestep.groups[name].active[0].int().argmax().item()]
    for _ in range(3):
        timestep = step(environment)
        movers.append(timestep.groups[name].active[0].int().argmax().item())
    assert movers == [2, 0, 2, 0]
    timestep = step(environment)
    assert timestep.groups[name].truncated.tolist() == [[True, False, True]] * 2
    assert timestep.final.envs.tolist() == [0, 1]
    # Everybody who lived to the end sees the end.
    assert timestep.final.groups[name].observations[0].tolist() == [[0, 9], [1, 5], [2, 9]]
    assert timestep.final.state[0].tolist() == [0, 9, 1, 5, 2, 9]
    assert timestep.first.all()
    assert timestep.groups[name].observations[0].tolist() == [[0, 0], [0, 0], [0, 0]]


def test_turn_based_toys_keep_all_promises():
    check_environment(vectorize(Relay), steps=30)


def test_the_turn_based_form_of_a_parallel_game_pays_what_the_parallel_form_pays():
    from pettingzoo.utils.conversions import parallel_to_aec

    environment = PettingZooVectorEnvironment(
        lambda: parallel_to_aec(Countdown((4, 4))), EnvironmentRequest(num_envs=1)
    )
    environment.reset()
    total = torch.zeros(2)
    for _ in range(8):
        timestep = step(environment)
        total += timestep.groups["agent"].rewards[0]
    assert total.tolist() == [4, 8]
    assert timestep.groups["agent"].terminated.all()
    check_environment(vectorize(lambda: parallel_to_aec(Countdown((4, 2)))), steps=30)


def play(environment, moves):
    """Plays the same moves in every copy; returns the last time step."""
    for move in moves:
        timestep = environment.step({"player": torch.full((environment.num_envs, 2), move)})
    return timestep


def test_the_loser_of_tic_tac_toe_is_paid_although_it_never_moves_again():
    environment = make_factory("classic/tictactoe-v3")(EnvironmentRequest(num_envs=2))
    timestep = environment.reset()
    assert timestep.groups["player"].action_masks.all()
    timestep = play(environment, [0, 3, 1, 4])
    assert timestep.groups["player"].action_masks[0, 0].int().tolist() == [0, 0, 1, 0, 0, 1, 1, 1, 1]
    assert not timestep.groups["player"].rewards.any()
    timestep = play(environment, [2])
    assert timestep.groups["player"].rewards.tolist() == [[1, -1]] * 2
    assert timestep.groups["player"].terminated.all()
    assert not timestep.groups["player"].truncated.any()
    last = timestep.final.groups["player"].observations[0]
    # Plane 0 shows the agent's own marks: the winner's row, and the loser's two marks.
    assert last[0, ..., 0].sum() == 3
    assert last[1, ..., 0].sum() == 2
    assert last[1, ..., 1].sum() == 3
    assert timestep.groups["player"].active.tolist() == [[True, False]] * 2


def test_an_illegal_move_ends_the_game_as_the_environment_says():
    environment = make_factory("classic/tictactoe-v3")(EnvironmentRequest(num_envs=1))
    environment.reset()
    timestep = play(environment, [0, 0])
    assert timestep.groups["player"].rewards.tolist() == [[0, -1]]
    assert timestep.groups["player"].terminated.all()
    assert not timestep.groups["player"].truncated.any()
    assert play(environment, [0]).final is None


def test_what_breaks_the_api_is_named():
    class Endless(Relay):
        def _was_dead_step(self, action):
            pass

    class Silent(Relay):
        def step(self, action):
            super().step(action)
            self.rewards = dict.fromkeys(self.agents[:2], 1.0)

    class Lost(Relay):
        def step(self, action):
            super().step(action)
            self.agent_selection = "nobody"

    class Shaped(Relay):
        def observe(self, agent):
            return np.zeros(2 if agent == "a" else 3, np.float32)

    for make, rule in [
        (Endless, "removes a dead agent"),
        (Silent, "rewards has an entry"),
        (Lost, "agent_selection is an agent"),
        (Shaped, "shape of its space"),
    ]:
        environment = PettingZooVectorEnvironment(make, EnvironmentRequest(num_envs=1, with_state=False))
        environment.reset()
        with pytest.raises(ApiError, match=rule):
            steps(environment, 6)
