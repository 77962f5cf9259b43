import copy

import pytest
import torch

from marl.algorithms.on_policy.losses import PPOLoss, PPOLossConfig
from marl.algorithms.on_policy.magnet import Magnet, MagnetConfig
from marl.algorithms.on_policy.networks import PolicyNetwork, ValueNetwork
from marl.algorithms.on_policy.rollouts import Rollout
from marl.networks.torso import Torso
from marl.specs import ArraySpec, DiscreteActions, GroupSpec

GROUP = GroupSpec(
    name="player",
    agents=("player_0", "player_1"),
    observation=ArraySpec(shape=(3,)),
    action=DiscreteActions(num_actions=4),
    masked=True,
)


def make_torso(inputs, num_agents):
    return Torso(inputs, num_agents=num_agents, hidden_sizes=(8,))


@pytest.fixture
def actor():
    torch.manual_seed(0)
    return PolicyNetwork(GROUP, make_torso)


def make_magnet(actors, period, **settings):
    return Magnet(actors, MagnetConfig(magnet_updates=period, **settings))


def move(actor):
    with torch.no_grad():
        for parameter in actor.parameters():
            parameter += torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))


def ask(magnet, wanted=None):
    observations = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(2))
    masks = torch.ones(5, 2, 4, dtype=torch.bool)
    masks[0, 1, 2:] = False
    wanted = torch.ones(5, 2, dtype=torch.bool) if wanted is None else wanted
    return magnet.log_probs("player", observations, masks, wanted), observations, masks


def test_a_magnet_is_the_policy_as_it_was_at_the_last_of_each_period(actor):
    magnet = make_magnet({"player": actor}, 3)
    magnet.advance()
    first, observations, masks = ask(magnet)
    own = actor.distribution(actor.torso.features([observations]), masks).log_probs.detach()
    torch.testing.assert_close(first, own)
    move(actor)
    for _ in range(2):
        magnet.advance()
        assert torch.equal(ask(magnet)[0], first)
    magnet.advance()
    own = actor.distribution(actor.torso.features([observations]), masks).log_probs.detach()
    torch.testing.assert_close(ask(magnet)[0], own)
    assert (ask(magnet)[0] - first).abs().max() > 0.1


def test_a_magnet_stays_longer_where_steps_are_smaller(actor):
    magnet = make_magnet({"player": actor}, 2)
    moves, before = [], None
    for update in range(12):
        move(actor)
        magnet.advance(1.0 if update < 4 else 0.5)
        now = ask(magnet)[0]
        if before is not None and not torch.equal(now, before):
            moves.append(update)
        before = now
    assert moves == [2, 4, 8]


def test_rows_that_nobody_wants_are_zero(actor):
    magnet = make_magnet({"player": actor}, 1)
    magnet.advance()
    wanted = torch.zeros(5, 2, dtype=torch.bool)
    wanted[3, 1] = True
    some, everything = ask(magnet, wanted)[0], ask(magnet)[0]
    assert not some[~wanted].any()
    torch.testing.assert_close(some[wanted], everything[wanted])


def test_a_share_of_the_uniform_policy_is_among_the_legal_actions(actor):
    plain, mixed = make_magnet({"player": actor}, 1), make_magnet({"player": actor}, 1, magnet_uniform_share=0.2)
    for magnet in (plain, mixed):
        magnet.advance()
    before, _, masks = ask(plain)
    after = ask(mixed)[0].exp()
    torch.testing.assert_close(after, 0.8 * before.exp() + 0.2 * masks / masks.sum(-1, keepdim=True))
    assert not after[~masks].any()
    assert torch.isfinite(ask(mixed)[0]).all()


def test_a_saved_magnet_goes_on_alike(actor):
    magnet = make_magnet({"player": actor}, 2)
    magnet.advance()
    before = ask(magnet)[0]
    move(actor)
    other = make_magnet({"player": copy.deepcopy(actor)}, 2)
    other.load_state_dict(magnet.state_dict())
    assert torch.equal(ask(other)[0], before)
    for one in (magnet, other):
        one.advance()
        assert torch.equal(ask(one)[0], before)
        one.advance()
        assert not torch.equal(ask(one)[0], before)
    assert torch.equal(ask(magnet)[0], ask(other)[0])


@pytest.mark.parametrize("sparse", [False, True])
def test_the_bonus_is_minus_the_divergence_from_the_magnet(actor, sparse):
    """The loss where nothing is to be gained: the divergence, and no gradient at the magnet."""
    magnet = make_magnet({"player": actor}, 1)
    magnet.advance()
    log_probs, observations, masks = ask(magnet)
    loss = PPOLoss(
        actor,
        ValueNetwork(GROUP, None, make_torso, reads_observations=True),
        PPOLossConfig(clip_value=False, huber_delta=None, value_coef=0.0, entropy_coef=0.7),
        sparse=sparse,
    )
    weights = torch.ones(5, 2)
    weights[2] = 0.0
    rollout = Rollout(
        observations=observations,
        actions=torch.zeros(5, 2, dtype=torch.int64),
        log_probs=log_probs[..., 0],
        advantages=torch.zeros(5, 2),
        old_values=torch.zeros(5, 2),
        targets=torch.zeros(5, 2),
        weights=weights,
        value_weights=weights,
        magnet=log_probs,
        masks=masks,
        state=None,
        first=None,
        actor_states=None,
        critic_states=None,
    )

    def value_and_gradient():
        actor.zero_grad()
        value, _ = loss(rollout, slice(0, 5), None)
        value.backward()
        return value.item(), max(parameter.grad.abs().max().item() for parameter in actor.parameters())

    value, gradient = value_and_gradient()
    assert value == pytest.approx(0.0, abs=1e-5)
    assert gradient == pytest.approx(0.0, abs=1e-5)
    move(actor)
    own = actor.distribution(actor.torso.features([observations]), masks).log_probs.detach()
    divergence = torch.where(masks, own.exp() * (own - log_probs), 0.0).sum(-1)
    value, gradient = value_and_gradient()
    assert value == pytest.approx(0.7 * (divergence * weights).sum().item(), rel=1e-4)
    assert value > 0.0
    assert gradient > 0.01
