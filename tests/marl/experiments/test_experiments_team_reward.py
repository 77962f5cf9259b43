"""Agents that learn from the sum of all rewards must be one team: refused, or accepted, by what their rewards are."""

from types import SimpleNamespace

import pytest
import torch

from marl.distributed.communicators import SerialCommunicator
from marl.errors import InputError
from marl.experiments.team_reward import TeamRewardCheck, refuse_adversaries
from marl.specs import AgentSpec, ArraySpec, DiscreteActions, EnvironmentSpec, group_agents

STEPS = 5000


def spec_of(*names, turn_based=False):
    vector, two = ArraySpec(shape=(1,)), DiscreteActions(num_actions=2)
    agents = [AgentSpec(name=name, observation=vector, action=two) for name in names]
    return EnvironmentSpec(groups=group_agents(agents, "none"), state=None, turn_based=turn_based)


def decide(rewards, *, turn_based=False):
    names = [f"agent_{column}" for column in range(rewards.shape[1])]
    check = TeamRewardCheck(spec_of(*names, turn_based=turn_based), SerialCommunicator())
    groups = {name: SimpleNamespace(rewards=rewards[:, [column]]) for column, name in enumerate(names)}
    check.add(SimpleNamespace(groups=groups))
    return check.decide()


def random(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_agents_whose_rewards_always_cancel_are_no_team():
    with pytest.raises(InputError, match="add up to 0 at every step"):
        decide(torch.tensor([[1.0, -1.0], [-2.0, 2.0]] * 8))


def test_agents_are_no_team_where_one_wins_what_another_loses_though_sums_do_not_cancel():
    prey = random(STEPS, 1)
    with pytest.raises(InputError, match=r"agent_[02] wins what agent_[02] loses.*--algorithm.allow-opponents"):
        decide(torch.cat((-prey, -prey, prey + 0.5 * random(STEPS, 1)), 1) - 3.0)


def test_a_team_is_accepted_with_shared_partly_shared_and_own_rewards():
    shared = random(STEPS, 1)
    assert decide(shared.expand(-1, 3))
    assert decide(shared + 0.3 * random(STEPS, 3))
    # Each finds its own, at different steps: rare payments, as in level-based foraging.
    assert decide((random(STEPS, 2) > 1.5).float())
    assert decide(torch.ones(STEPS, 2))


def test_few_payments_and_few_steps_say_nothing_yet():
    assert not decide(torch.tensor([[1.0, -1.0]] * 3 + [[0.0, 0.0]] * 61))
    assert not decide(torch.tensor([[1.0, -1.0]] * 15 + [[1.0, 1.0]]))


def test_movers_of_turn_based_games_are_rewarded_in_turn_which_is_no_opposition():
    assert decide(torch.tensor([[1.0, 0.0], [0.0, 1.0]] * STEPS), turn_based=True)


@pytest.mark.parametrize("names", [("adversary_0", "agent_0"), ("alice_0", "eve_0"), ("agent_0", "leadadversary_0")])
def test_what_an_environment_calls_adversaries_is_believed(names):
    with pytest.raises(InputError, match="plays against the other agents"):
        refuse_adversaries(spec_of(*names))


@pytest.mark.parametrize("names", [("speaker_0", "listener_0"), ("agent_0", "agent_1"), ("steve_0", "agent_0")])
def test_agents_of_several_names_may_be_a_team(names):
    refuse_adversaries(spec_of(*names))
