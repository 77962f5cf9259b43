"""Which episodes are played depends on neither their lengths nor the number of ranks."""

import math

import pytest
import torch
from probes import Deaths, Probe, anything, team

from marl.acting.evaluation import Evaluation, evaluate
from marl.core import EnvironmentRequest
from marl.distributed.communicators import SerialCommunicator
from marl.policy import Decision, Policy
from marl.specs import AgentSpec, ArraySpec, DiscreteActions

GAME = anything(
    AgentSpec(name="x", observation=ArraySpec(shape=(2,)), action=DiscreteActions(num_actions=2)),
    AgentSpec(name="y", observation=ArraySpec(shape=(3,)), action=DiscreteActions(num_actions=2)),
)


class Sign(Policy):
    """Plays by what it sees."""

    def act(self, step, first, state, uniforms):
        return Decision(actions=(step.observations.flatten(2).sum(-1) > 1.0).long(), extras={}, state=None)


class Rank(SerialCommunicator):
    """One of several ranks, whose rows are gathered by the test."""

    def __init__(self, rank, size):
        self.rank, self.size, self.sent = rank, size, None

    def gather_rows(self, tensor):
        self.sent = tensor.clone()
        return tensor[:0] if self.rank else tensor.clone()


class Endless(Probe):
    """Reward 1 for ever."""

    agents = team(2, ArraySpec(shape=(3,)), DiscreteActions(num_actions=2))

    def observe(self, agent):
        return torch.zeros(self.num_envs, 3)

    def play(self, actions, rewards, terminated, truncated):
        rewards.fill_(1.0)


def play(environment=GAME, *, episodes=17, num_envs=5, communicator=None, seed=0, max_steps=10_000):
    spec = environment(EnvironmentRequest(num_envs=1)).spec
    return evaluate(
        {group.name: Sign() for group in spec.groups},
        spec,
        environment,
        episodes=episodes,
        num_envs=num_envs,
        seed=seed,
        communicator=communicator or SerialCommunicator(),
        max_steps=max_steps,
    )


@pytest.mark.parametrize("max_steps", [10_000, 3])
@pytest.mark.parametrize("ranks", [2, 3, 4, 7])
def test_evaluation_is_the_same_for_any_number_of_ranks(ranks, max_steps):
    class Numbered(Rank):
        def gather_rows(self, tensor):
            self.sent = tensor.clone()
            return tensor[:0]

    one = Numbered(0, 1)
    play(communicator=one, max_steps=max_steps)
    expected = one.sent[one.sent[:, 0].argsort()]
    rows = []
    for rank in range(ranks):
        communicator = Numbered(rank, ranks)
        play(communicator=communicator, max_steps=max_steps)
        rows.append(communicator.sent)
    table = torch.cat(rows)
    assert torch.equal(table[table[:, 0].argsort()], expected)
    if max_steps == 10_000:
        assert expected[:, 0].tolist() == list(range(17))


@pytest.mark.parametrize("max_steps", [10_000, 4, 2])
def test_the_episodes_of_each_copy_count_in_order_whatever_their_lengths(max_steps):
    # By hand: copy c plays episodes c, c + 5, c + 10, … of the whole.
    environment = GAME(EnvironmentRequest(num_envs=5, purpose="evaluate", with_state=False))
    timestep = environment.reset()
    sums = torch.zeros(5, 2, dtype=torch.float64)
    steps = [0] * 5
    played = [[] for _ in range(5)]
    while min(map(len, played)) < 4:
        actions = {name: Sign().act(step, None, None, None).actions for name, step in timestep.groups.items()}
        timestep = environment.step(actions)
        sums += torch.cat([step.rewards for step in timestep.groups.values()], dim=1)
        for copy, ended in enumerate(timestep.first.tolist()):
            steps[copy] += 1
            if ended or steps[copy] == max_steps:
                played[copy].append((sums[copy].tolist(), steps[copy], not ended))
            if ended:
                sums[copy] = steps[copy] = 0
    result = play(max_steps=max_steps)
    expected, cut = [], 0
    for number in range(17):
        before, (returns, length, stopped) = played[number % 5][: number // 5], played[number % 5][number // 5]
        if not any(other[2] for other in before):
            expected.append((pytest.approx(returns), length))
            cut += stopped
    assert list(zip(result.returns.tolist(), result.lengths.tolist(), strict=True)) == expected
    assert result.stopped == cut
    assert (cut > 0) == (max_steps < 10_000)
    assert result.agents == ("x", "y")


def test_episodes_that_do_not_end_count_with_their_returns_up_to_the_limit():
    result = play(Endless, episodes=7, num_envs=3, max_steps=11)
    assert result.returns.tolist() == [[11.0, 11.0]] * 3
    assert result.lengths.tolist() == [11] * 3
    summary = result.summary()
    assert summary["evaluation/step_limits"] == 3
    assert summary["evaluation/episodes"] == 3
    assert "evaluation/step_limits" not in play().summary()


def test_fewer_episodes_than_copies_or_ranks_are_enough():
    assert play(episodes=3, num_envs=100).returns.shape == (3, 2)
    idle = Rank(3, 4)
    play(episodes=2, num_envs=100, communicator=idle)
    assert idle.sent.shape == (0, 5)
    # The first of them are the same, since each is its copy's first.
    assert torch.equal(play(episodes=3, num_envs=5).returns, play(episodes=5, num_envs=5).returns[:3])


def test_evaluation_repeats_itself_but_not_training():
    assert torch.equal(play().returns, play().returns)
    assert not torch.equal(play().returns, play(seed=1).returns)


def test_the_summary_gives_means_and_a_confidence_interval():
    result = play(Deaths, episodes=4)
    summary = result.summary()
    assert summary["evaluation/return_mean"] == 6.0
    assert summary["evaluation/return_ci95"] == 0.0
    assert summary["evaluation/episodes"] == 4
    assert summary["evaluation/episode_length"] == 3.0
    assert [summary[f"evaluation/return/agent_{index}"] for index in range(3)] == [1.0, 2.0, 3.0]
    numbers = torch.tensor([[1.0, 0.0], [2.0, 1.0], [4.0, 2.0]], dtype=torch.float64)
    spread = Evaluation(agents=("a", "b"), returns=numbers, lengths=torch.tensor([1, 2, 3])).summary()
    # Totals 1, 3, 6: standard deviation sqrt(19/3).
    assert spread["evaluation/return_ci95"] == pytest.approx(1.96 * math.sqrt(19 / 3) / math.sqrt(3))
    alone = Evaluation(agents=("a", "b"), returns=numbers[:1], lengths=torch.tensor([1])).summary()
    assert math.isnan(alone["evaluation/return_ci95"])
