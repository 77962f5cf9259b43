"""Critics of joint actions read what they should, and nothing else."""

import pytest
import torch

from marl.algorithms.actor_critic.config import ActorCriticConfig
from marl.algorithms.actor_critic.critics import CriticNetwork
from marl.networks.action_encodings import action_features, encode_actions
from marl.specs import (
    AgentSpec,
    ArraySpec,
    ContinuousActions,
    DiscreteActions,
    EnvironmentSpec,
    MultiDiscreteActions,
    group_agents,
)

FORCE = ContinuousActions(low=(-1.0, 0.0), high=(1.0, 2.0))

PAIR = MultiDiscreteActions(nvec=(3, 2))

SEEN = ArraySpec(shape=(4,))

SPEC = EnvironmentSpec(
    groups=group_agents(
        [
            AgentSpec(name="a_0", observation=SEEN, action=FORCE),
            AgentSpec(name="a_1", observation=SEEN, action=FORCE),
            AgentSpec(name="b", observation=SEEN, action=DiscreteActions(num_actions=3), masked=True),
        ]
    ),
    state=ArraySpec(shape=(5,)),
)


def critic(group="a", *, reads_own_action=True, **settings):
    torch.manual_seed(0)
    config = ActorCriticConfig(hidden_sizes=(8,), **settings)
    return CriticNetwork(SPEC.group(group), SPEC, config, reads_own_action=reads_own_action)


def inputs(group="a", batch=6):
    spec = SPEC.group(group)
    shapes = [(spec.size, 4), (spec.size, action_features(spec.action)), (1, 5), (spec.size, 7)]
    return [torch.randn(batch, *shape, requires_grad=True) for shape in shapes]


def test_actions_are_encoded_one_hot_or_left_as_they_are():
    forces = torch.randn(2, 1, 2)
    assert encode_actions(FORCE, forces) is forces
    assert encode_actions(DiscreteActions(num_actions=3), torch.tensor([[2, 0]])).tolist() == [[[0, 0, 1], [1, 0, 0]]]
    assert encode_actions(PAIR, torch.tensor([[[2, 1]]])).tolist() == [[[0, 0, 1, 0, 1]]]
    assert [action_features(spec) for spec in (FORCE, DiscreteActions(num_actions=3), PAIR)] == [2, 3, 5]


@pytest.mark.parametrize("centralized", [True, False])
def test_a_critic_reads_state_and_others_only_if_it_is_centralized(centralized):
    tensors = inputs()
    critic(centralized_critic=centralized)(*tensors).sum().backward()
    read = [tensor.grad is not None and bool(tensor.grad.abs().sum() > 0) for tensor in tensors]
    assert read == [True, True, centralized, centralized]


def test_an_agents_value_depends_on_its_own_row_only():
    observations, own, state, others = inputs()
    values = critic()(observations, own, state, others)
    assert values.shape == (1, 6, 2)
    values[:, :, 0].sum().backward()
    for tensor in (observations, own, others):
        assert tensor.grad[:, 1].abs().sum() == 0 < tensor.grad[:, 0].abs().sum()


def test_agents_are_told_apart_by_their_ids():
    alike = [tensor.detach()[:, :1].expand_as(tensor) for tensor in inputs()]
    values = critic()(*alike)
    assert (values[..., 0] - values[..., 1]).abs().min() > 0


def test_several_critics_are_independent():
    several = critic(num_critics=3)
    values = several(*inputs())
    assert values.shape == (3, 6, 2)
    assert (values[0] - values[1]).abs().min() > 0
    values[0].sum().backward()
    assert all(parameter.grad.abs().sum() == 0 for parameter in several.torsos[1].parameters())


def test_all_alternatives_are_valued_at_once_without_reading_which_was_taken():
    observations, _, state, others = inputs("b")
    values = critic("b", reads_own_action=False, num_critics=2)(observations, None, state, others)
    assert values.shape == (2, 6, 1, 3)


def test_an_empty_share_of_a_batch_gives_empty_values_and_zero_gradients():
    network = critic(num_critics=2)
    values = network(*inputs(batch=0))
    assert values.shape == (2, 0, 2)
    values.sum().backward()
    assert all(parameter.grad.abs().sum() == 0 for parameter in network.parameters())
