"""Episodes are counted once, with every agent's rewards, however they are spread over copies and ranks."""

from dataclasses import replace

import pytest
import torch
from probes import Alternating, Deaths, Terminates, anything

from marl.acting.actors import PolicyActor
from marl.acting.environment_loop import EnvironmentLoop
from marl.acting.episodes import EpisodeStatistics, EpisodeTracker
from marl.core import EnvironmentRequest
from marl.distributed.communicators import SerialCommunicator
from marl.policy import Decision, Policy
from marl.specs import AgentSpec, ArraySpec, DiscreteActions


class Always(Policy):
    """Plays one action."""

    def __init__(self, action: int = 0) -> None:
        self._action = action

    def act(self, step, first, state, uniforms):
        return Decision(actions=torch.full(step.active.shape, self._action), extras={}, state=None)


def loop(environment_class, action=0, num_envs=3, **request):
    environment = environment_class(EnvironmentRequest(num_envs=num_envs, **request))
    groups = {group.name: group.size for group in environment.spec.groups}
    actor = PolicyActor({name: Always(action) for name in groups}, groups, num_envs=num_envs, seed=0)
    tracker = EpisodeTracker(environment.spec, num_envs)
    statistics = EpisodeStatistics(tracker, environment.num_envs)
    return EnvironmentLoop(environment, actor, statistics), statistics, tracker, environment


def test_returns_are_undiscounted_and_by_agent():
    running, statistics, _, _ = loop(Deaths)
    running.begin()
    for _ in range(6):
        running.step()
    episodes, metrics = statistics.reduce(SerialCommunicator())
    assert episodes == 6
    assert metrics == {
        "episode_return/mean": 6.0,
        "episode_length/mean": 3.0,
        "episode_return/agent_0": 1.0,
        "episode_return/agent_1": 2.0,
        "episode_return/agent_2": 3.0,
    }


def test_rewards_between_turns_count_for_the_agent_that_receives_them():
    running, statistics, _, _ = loop(Alternating, action=1)
    running.begin()
    for _ in range(6):
        running.step()
    _, metrics = statistics.reduce(SerialCommunicator())
    assert metrics["episode_return/agent_0"] == 9.0
    assert metrics["episode_return/agent_1"] == 0.0
    assert metrics["episode_length/mean"] == 6.0


def test_without_a_finished_episode_there_is_no_mean():
    running, statistics, _, _ = loop(Deaths)
    running.begin()
    running.step()
    assert statistics.reduce(SerialCommunicator()) == (0, {})


def test_dropped_episodes_count_in_no_mean_and_are_told_apart():
    _, statistics, _, environment = loop(Terminates)
    environment.reset()
    timestep = environment.step({"agent": torch.zeros(3, 2, dtype=torch.int64)})
    marked = replace(timestep, final=replace(timestep.final, dropped=torch.tensor([False, True, False])))
    statistics.observe(marked)
    episodes, metrics = statistics.reduce(SerialCommunicator())
    assert (episodes, metrics["dropped_episodes"]) == (2, 1.0)
    statistics.observe(timestep)
    episodes, metrics = statistics.reduce(SerialCommunicator())
    assert episodes == 3
    assert metrics["episode_length/mean"] == 1.0
    assert "dropped_episodes" not in metrics


def test_untold_episodes_are_saved_and_taken_back():
    running, statistics, tracker, _ = loop(Terminates)
    running.begin()
    running.step()
    saved = {name: tensor.clone() for name, tensor in statistics.env_state_dict().items()}
    again = EpisodeStatistics(tracker, 3)
    again.load_env_state_dict(saved)
    assert again.reduce(SerialCommunicator()) == statistics.reduce(SerialCommunicator())


def test_means_are_those_since_the_last_reduce():
    running, statistics, _, _ = loop(Terminates)
    running.begin()
    running.step()
    assert statistics.reduce(SerialCommunicator())[0] == 3
    assert statistics.reduce(SerialCommunicator())[0] == 0
    running.step()
    assert statistics.reduce(SerialCommunicator())[0] == 3


def test_means_are_over_all_ranks():
    class WithAnother(SerialCommunicator):
        """Another rank counted 6 episodes of length 1 with returns 0 and 2."""

        def all_reduce(self, tensor, operation="sum"):
            tensor += torch.tensor([6.0, 0.0, 6.0, 0.0, 12.0, 0.0], dtype=torch.float64)

    running, statistics, _, _ = loop(Terminates)
    running.begin()
    running.step()
    running.step()
    episodes, metrics = statistics.reduce(WithAnother())
    assert episodes == 12
    assert metrics["episode_return/agent_0"] == 0.5
    assert metrics["episode_return/agent_1"] == 1.5
    assert metrics["episode_return/mean"] == 2.0


GAME = anything(
    AgentSpec(name="x_0", observation=ArraySpec(shape=(2,)), action=DiscreteActions(num_actions=2)),
    AgentSpec(name="y_0", observation=ArraySpec(shape=(3,)), action=DiscreteActions(num_actions=2)),
    AgentSpec(name="y_1", observation=ArraySpec(shape=(3,)), action=DiscreteActions(num_actions=2)),
)


def test_a_tracker_agrees_with_adding_up_by_hand():
    _, _, tracker, environment = loop(GAME)
    assert tracker.agents == ("x_0", "y_0", "y_1")
    groups = {group.name: group.size for group in environment.spec.groups}
    actor = PolicyActor({name: Always() for name in groups}, groups, num_envs=3, seed=0)
    timestep = environment.reset()
    sums, lengths, seen = [[0.0] * 3 for _ in range(3)], [0] * 3, 0
    for _ in range(40):
        timestep = environment.step(actor.select_actions(timestep))
        ended = tracker.track(timestep)
        for copy in range(3):
            row = [*timestep.groups["x_0"].rewards[copy].tolist(), *timestep.groups["y"].rewards[copy].tolist()]
            sums[copy] = [total + reward for total, reward in zip(sums[copy], row, strict=True)]
            lengths[copy] += 1
            if timestep.first[copy]:
                index = ended.envs.tolist().index(copy)
                assert ended.returns[index].tolist() == pytest.approx(sums[copy])
                assert ended.lengths[index] == lengths[copy]
                sums[copy], lengths[copy], seen = [0.0] * 3, 0, seen + 1
        assert (ended is None) == (not timestep.first.any())
    assert seen > 5


def test_unfinished_episodes_are_saved_and_taken_back_in_other_shares():
    running, _, tracker, environment = loop(GAME)
    running.begin()
    for _ in range(5):
        running.step()
    saved = {name: tensor.clone() for name, tensor in tracker.env_state_dict().items()}
    for envs in (slice(0, 1), slice(1, 3)):
        share = EpisodeTracker(environment.spec, envs.stop - envs.start)
        share.load_env_state_dict({name: tensor[envs] for name, tensor in saved.items()})
        for name, tensor in share.env_state_dict().items():
            assert torch.equal(tensor, saved[name][envs])


def test_a_loop_goes_on_from_a_time_step_that_it_is_given():
    running, statistics, _, environment = loop(Deaths)
    environment.reset()
    environment.step({"agent": torch.zeros(3, 3, dtype=torch.int64)})
    running.begin(environment.current())
    running.step()
    running.step()
    assert statistics.reduce(SerialCommunicator())[0] == 3
