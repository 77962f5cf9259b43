"""Transitions as actors and critics read them."""

import torch

from marl.algorithms.actor_critic.batches import JointActions, prepare_batch
from marl.algorithms.actor_critic.config import ActorCriticConfig
from marl.replay import GroupTransitions, Transitions
from marl.specs import AgentSpec, ArraySpec, ContinuousActions, DiscreteActions, EnvironmentSpec, group_agents

FORCE = ContinuousActions(low=(-1.0, 0.0), high=(1.0, 2.0))

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


def test_the_others_are_everybody_but_oneself():
    joint = JointActions(SPEC)
    assert joint.size == 7
    together = joint.join({"a": torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]), "b": torch.tensor([[[5.0, 6.0, 7.0]]])})
    assert together.tolist() == [[1, 2, 3, 4, 5, 6, 7]]
    assert joint.others("a", together).tolist() == [[[0, 0, 3, 4, 5, 6, 7], [1, 2, 0, 0, 5, 6, 7]]]
    assert joint.others("b", together).tolist() == [[[1, 2, 3, 4, 0, 0, 0]]]


def sample() -> Transitions:
    """Two transitions; in the second a_1 is dead."""

    def group(size, action, rewards, active):
        active = torch.tensor(active)
        return GroupTransitions(
            observations=torch.randn(2, size, 4),
            action_masks=None,
            active=active,
            actions=action,
            rewards=torch.tensor(rewards),
            discounts=0.9 * active,
            next_observations=torch.randn(2, size, 4),
            next_action_masks=None,
            next_active=active,
        )

    return Transitions(
        groups={
            "a": group(2, torch.ones(2, 2, 2), [[1.0, 2.0], [3.0, 0.0]], [[True, True], [True, False]]),
            "b": group(1, torch.tensor([[2], [1]]), [[10.0], [20.0]], [[True], [True]]),
        },
        state=torch.randn(2, 5),
        next_state=torch.randn(2, 5),
        discounts=torch.tensor([0.9, 0.0]),
        weights=torch.tensor([1.0, 0.5]),
        indices=torch.zeros(2, 2, dtype=torch.int64),
        positions=torch.arange(2),
        global_batch_size=2,
    )


def test_each_agent_learns_from_its_own_reward_while_it_acts():
    batch = prepare_batch(SPEC, sample(), ActorCriticConfig()).groups["a"]
    assert batch.rewards.tolist() == [[1, 2], [3, 0]]
    torch.testing.assert_close(batch.discounts, torch.tensor([[0.9, 0.9], [0.9, 0.0]]))
    assert batch.critic_weights.tolist() == batch.actor_weights.tolist() == [[1.0, 1.0], [0.5, 0.0]]
    assert batch.actions[1, 1].tolist() == [0, 0]
    assert batch.next_active.squeeze(-1).tolist() == [[1, 1], [1, 0]]


def test_a_teams_reward_reaches_the_critics_of_the_dead_but_not_their_actors():
    batch = prepare_batch(SPEC, sample(), ActorCriticConfig(team_reward=True))
    for name, size in (("a", 2), ("b", 1)):
        data = batch.groups[name]
        assert data.rewards.tolist() == [[13.0] * size, [23.0] * size]
        torch.testing.assert_close(data.discounts, torch.tensor([[0.9] * size, [0.0] * size]))
        assert data.critic_weights.tolist() == [[1.0] * size, [0.5] * size]
    assert batch.groups["a"].actor_weights.tolist() == [[1.0, 1.0], [0.5, 0.0]]
    assert (batch.state.shape, batch.next_state.shape) == ((2, 1, 5), (2, 1, 5))


def test_without_a_state_there_is_none_to_read():
    blind = EnvironmentSpec(groups=SPEC.groups)
    assert prepare_batch(blind, sample(), ActorCriticConfig(input_normalization="layer")).state is None
