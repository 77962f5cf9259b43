"""Minibatches hold every step once on any number of ranks, and their gradients add up to that of the whole rollout."""

from types import SimpleNamespace

import pytest
import torch

from marl.algorithms.on_policy.losses import PPOLoss, PPOLossConfig
from marl.algorithms.on_policy.networks import PolicyNetwork, ValueNetwork
from marl.algorithms.on_policy.passes import PassesConfig, RolloutPasses
from marl.algorithms.on_policy.rollouts import Rollout
from marl.networks.torso import Torso
from marl.specs import ArraySpec, DiscreteActions, GroupSpec

GROUP = GroupSpec(
    name="player",
    agents=("player_0", "player_1"),
    observation=ArraySpec(shape=(3,)),
    action=DiscreteActions(num_actions=4),
    masked=False,
)


def place(num_envs, first_env=0):
    return SimpleNamespace(seed=7, num_envs=num_envs, first_env=first_env, device=torch.device("cpu"))


def make_loss(*, recurrent):
    torch.manual_seed(0)

    def make_torso(inputs, num_agents):
        return Torso(inputs, num_agents=num_agents, hidden_sizes=(8,), recurrent=recurrent)

    actor, critic = PolicyNetwork(GROUP, make_torso), ValueNetwork(GROUP, None, make_torso, reads_observations=True)
    config = PPOLossConfig(huber_delta=1.0, value_coef=0.5, entropy_coef=0.1)
    return PPOLoss(actor, critic, config, sparse=False)


def make_passes(loss, num_envs, first_env=0, *, epochs=1, minibatches, chunk_length=None):
    config = PassesConfig(epochs=epochs, minibatches=minibatches)
    context = place(num_envs, first_env)
    return RolloutPasses({"player": loss}, context, config, chunk_length=chunk_length, compile=False)


def make_rollout(length, num_envs, *, recurrent):
    generator = torch.Generator().manual_seed(1)
    rows, agents = length * num_envs, GROUP.size

    def draw(*shape):
        return torch.randn((rows, agents, *shape), generator=generator)

    return Rollout(
        observations=draw(3),
        actions=torch.randint(4, (rows, agents), generator=generator),
        log_probs=draw() * 0.1 - 1.4,
        advantages=draw(),
        old_values=draw(),
        targets=draw(),
        weights=(draw() > 0).float(),
        value_weights=torch.ones(rows, agents),
        magnet=None,
        masks=None,
        state=None,
        # An episode begins at every chunk of three, so that chunks can stand alone.
        first=(torch.arange(rows) // num_envs % 3 == 0) if recurrent else None,
        actor_states=torch.zeros(rows, agents, 8) if recurrent else None,
        critic_states=torch.zeros(rows, agents, 8) if recurrent else None,
    )


def gradient(loss, passes, rollout, units):
    for parameter in loss.parameters():
        parameter.grad = torch.zeros_like(parameter)
    sums = torch.zeros(len(PPOLoss.METRICS))
    passes.add_gradients("player", rollout, units, sums)
    return torch.cat([parameter.grad.flatten() for parameter in loss.parameters()]), sums


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("num_envs", [5, 700])
def test_the_gradients_of_a_passs_minibatches_add_up_to_that_of_the_rollout(recurrent, num_envs):
    # Seven hundred environments are more than one part that fits the cache.
    length, loss = 7, make_loss(recurrent=recurrent)
    rollout = make_rollout(length, num_envs, recurrent=recurrent)
    chunk = 3 if recurrent else None
    whole = make_passes(loss, num_envs, minibatches=1, chunk_length=chunk)
    (everything,) = whole.cut(length)
    expected, expected_sums = gradient(loss, whole, rollout, everything)
    cut = make_passes(loss, num_envs, minibatches=4, chunk_length=chunk)
    parts = [gradient(loss, cut, rollout, units) for units in cut.cut(length)]
    assert len(parts) == 4
    assert all(sums[0] > 0 for _, sums in parts)
    torch.testing.assert_close(sum(part for part, _ in parts), expected, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(sum(sums for _, sums in parts), expected_sums, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("sizes", [(4, 2), (1, 2, 3)])
def test_every_rank_cuts_its_environments_as_one_rank_would(sizes):
    loss = make_loss(recurrent=False)

    def cuts(num_envs, first_env):
        passes = make_passes(loss, num_envs, first_env, epochs=2, minibatches=3)
        # Unit u of the cut is step u // E of environment u % E.
        return [
            {(int(unit) // num_envs, first_env + int(unit) % num_envs) for unit in units} for units in passes.cut(5)
        ]

    alone = cuts(6, 0)
    assert [sum(map(len, alone[:3])), len(set.union(*alone[:3]))] == [30, 30]
    assert alone[:3] != alone[3:]
    joined = [set() for _ in alone]
    for rank, size in enumerate(sizes):
        for whole, part in zip(joined, cuts(size, sum(sizes[:rank])), strict=True):
            whole |= part
    assert joined == alone


def test_passes_go_on_where_they_stopped():
    loss = make_loss(recurrent=False)
    straight, stopped, resumed = (make_passes(loss, 4, epochs=epochs, minibatches=2) for epochs in (3, 3, 1))
    expected = [units.tolist() for units in straight.cut(6)][2:]
    # Left in the middle of the second pass, as where the policy has moved far enough.
    for number, _ in enumerate(stopped.cut(6)):
        if number == 2:
            break
    resumed.load_state_dict(stopped.state_dict())
    assert [units.tolist() for units in resumed.cut(6)] == expected[2:]
