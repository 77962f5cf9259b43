"""Samples of replay as Q-learners read them."""

import pytest
import torch

from marl.algorithms.q_learning.batches import read_batch
from marl.algorithms.q_learning.config import QLearningConfig
from marl.algorithms.q_learning.mixers import SumMixer
from marl.algorithms.q_learning.networks import QNetwork, QNetworks
from marl.networks.categorical import illegal_score
from marl.replay import GroupSequences, GroupTransitions, Sequences, Transitions
from marl.specs import ArraySpec, DiscreteActions, EnvironmentSpec, GroupSpec

GROUP = GroupSpec(
    name="agent",
    agents=("agent_0", "agent_1"),
    observation=ArraySpec(shape=(2,)),
    action=DiscreteActions(num_actions=3),
    masked=True,
)

SPEC = EnvironmentSpec(groups=(GROUP,), state=None)


def networks(table: list[float], *, recurrent: bool = False) -> QNetworks:
    """Networks to which every observation is worth the same values of actions."""
    network = QNetwork(GROUP, QLearningConfig(hidden_sizes=(4,), recurrent=recurrent))
    with torch.no_grad():
        for parameter in network.advantages.parameters():
            parameter.copy_(torch.tensor(table) if parameter.dim() == 1 else torch.zeros_like(parameter))
    return QNetworks({"agent": network}, SumMixer())


def transitions(weights: list[float], next_masks: list[bool]) -> Transitions:
    items = len(weights)
    agents = (items, 2)
    data = GroupTransitions(
        observations=torch.ones(*agents, 2),
        action_masks=torch.ones(*agents, 3, dtype=torch.bool),
        active=torch.ones(agents, dtype=torch.bool),
        actions=torch.zeros(agents, dtype=torch.int64),
        rewards=torch.tensor([1.0, 2.0]).expand(agents),
        discounts=torch.full(agents, 0.5),
        next_observations=torch.ones(*agents, 2),
        next_action_masks=torch.tensor(next_masks).expand(*agents, 3),
        next_active=torch.ones(agents, dtype=torch.bool),
    )
    return Transitions(
        groups={"agent": data},
        state=None,
        next_state=None,
        discounts=torch.full((items,), 0.5),
        weights=torch.tensor(weights),
        indices=torch.zeros((items, 2), dtype=torch.int64),
        positions=torch.arange(items),
        global_batch_size=items,
    )


def sequences(lengths: list[int], total: int) -> Sequences:
    """Sequences of these lengths, padded to the total, whose first step is burn-in."""
    items = len(lengths)
    rows, agents = (total, items), (total + 1, items, 2)
    valid = torch.arange(total).unsqueeze(1) < torch.tensor(lengths)
    data = GroupSequences(
        observations=torch.ones(*agents, 2),
        action_masks=None,
        active=torch.arange(total + 1).view(-1, 1, 1).expand(agents) < total,
        actions=torch.zeros(*rows, 2, dtype=torch.int64),
        rewards=torch.ones(*rows, 2),
        discounts=torch.ones(*rows, 2),
    )
    return Sequences(
        groups={"agent": data},
        state=None,
        discounts=torch.ones(rows),
        valid=valid,
        learn=valid & (torch.arange(total) > 0).unsqueeze(1),
        weights=torch.ones(items),
        indices=torch.zeros((items, 2), dtype=torch.int64),
        positions=torch.arange(items),
        global_batch_size=items,
    )


@pytest.mark.parametrize(("double", "worth"), [(True, 20.0), (False, 30.0)])
def test_what_is_next_is_chosen_by_the_learning_network_only_with_double(double, worth):
    learning, target = networks([9.0, 2.0, 1.0]), networks([10.0, 20.0, 30.0])
    batch = read_batch(SPEC, transitions([1.0], [False, True, True]), learning, target, QLearningConfig(double=double))
    greedy_next = batch.groups["agent"].greedy_next
    illegal = illegal_score(greedy_next.values)
    assert greedy_next.values.tolist() == [[[illegal, 20.0, 30.0]] * 2]
    assert greedy_next.chosen().tolist() == [[worth] * 2]
    assert not greedy_next.values.requires_grad
    assert batch.groups["agent"].taken.chosen().tolist() == [[9.0, 9.0]]
    assert batch.rewards.tolist() == [3.0]


def test_items_without_a_weight_are_not_learned_from():
    learning = networks([0.0, 0.0, 0.0])
    sample = transitions([0.5, 0.0], [True, True, True])
    batch = read_batch(SPEC, sample, learning, learning, QLearningConfig(double=False))
    assert batch.learn.tolist() == [True, False]
    assert batch.ended is None


@pytest.mark.parametrize("double", [True, False])
def test_a_step_of_a_sequence_leads_to_the_next_one(double):
    learning, target = networks([3.0, 1.0, 2.0], recurrent=True), networks([4.0, 6.0, 5.0], recurrent=True)
    batch = read_batch(SPEC, sequences([3, 2], 3), learning, target, QLearningConfig(double=double))
    group = batch.groups["agent"]
    assert group.taken.values.shape == group.greedy_next.values.shape == (3, 2, 2, 3)
    assert group.greedy_next.chosen().eq(4.0 if double else 6.0).all()
    assert group.taken.active.all()
    assert group.greedy_next.active[:, 0, 0].tolist() == [True, True, False]
    assert batch.ended is not None
    assert batch.ended.T.tolist() == [[False, False, True], [False, True, True]]


def test_a_mixer_leaves_those_out_who_do_not_act():
    learning = networks([3.0, 1.0, 2.0])
    batch = read_batch(SPEC, transitions([1.0], [True, True, True]), learning, learning, QLearningConfig())
    taken = batch.groups["agent"].taken
    assert learning.mix([taken], None).tolist() == [6.0]
    assert learning.mix([taken._replace(active=torch.tensor([[True, False]]))], None).tolist() == [3.0]
