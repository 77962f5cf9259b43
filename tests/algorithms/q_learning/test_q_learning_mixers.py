"""What mixers promise: monotonicity, individual-global-max, and that whoever does not act changes nothing."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from marl.algorithms.q_learning.mixers import DuplexDuelingMixer, MonotonicMixer, SumMixer
from marl.specs import ArraySpec

STATE = ArraySpec(shape=(5,))
AGENTS = 3
CHOICES = (2, 4, 3)
seeds = st.integers(0, 2**31 - 1)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def roughened(mixer, seed):
    """With random weights in place of the tidy first ones; larger ones would drive sigmoids to zero."""
    source = generator(seed)
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=source))
    return mixer.double()


def monotonic(seed=0):
    return roughened(MonotonicMixer(AGENTS, STATE, embedding=8, hidden=8), seed)


def duplex(seed=0):
    return roughened(DuplexDuelingMixer(AGENTS, sum(CHOICES), STATE, heads=2, hidden=8), seed)


def normal(seed, *shape):
    return 3.0 * torch.randn(shape, generator=generator(seed), dtype=torch.float64)


def one_hot(actions):
    """(..., N) actions as (..., sum of CHOICES)."""
    parts = [torch.nn.functional.one_hot(actions[..., i], CHOICES[i]) for i in range(AGENTS)]
    return torch.cat(parts, -1).double()


def everybody(*shape):
    return torch.ones(*shape, AGENTS, dtype=torch.bool)


def test_the_sum_mixer_adds_up_who_acts():
    values = torch.tensor([[1.0, 2.0, 4.0], [1.0, 2.0, 4.0]])
    active = torch.tensor([[True, True, True], [True, False, True]])
    assert SumMixer()(values, active).tolist() == [7.0, 5.0]


@given(seeds)
def test_the_monotonic_mixer_grows_with_every_agents_value(seed):
    values = normal(seed, 16, AGENTS).requires_grad_()
    total = monotonic(seed)(values, everybody(16), normal(seed + 1, 16, 5))
    (slopes,) = torch.autograd.grad(total.sum(), values)
    assert bool((slopes >= 0).all())
    assert bool((slopes > 0).any())


@given(seeds)
def test_the_monotonic_mixer_never_falls_however_far_a_value_rises(seed):
    mixer, state = monotonic(seed), normal(seed + 1, 16, 5)
    low = normal(seed, 16, AGENTS)
    high = low + normal(seed + 2, 16, AGENTS).abs()
    assert bool((mixer(high, everybody(16), state) >= mixer(low, everybody(16), state) - 1e-9).all())


def test_the_monotonic_mixer_depends_on_the_state_and_not_only_through_its_bias():
    mixer = monotonic()
    values = normal(1, 1, AGENTS).requires_grad_()
    slopes = [torch.autograd.grad(mixer(values, everybody(1), normal(s, 1, 5)).sum(), values)[0] for s in (2, 3)]
    assert not torch.allclose(*slopes)


def test_the_monotonic_mixer_can_let_the_team_lose_whatever_agents_are_worth():
    # Biases have no sign: the state alone may make a total of any sign.
    mixer, values = monotonic(), torch.zeros(64, AGENTS, dtype=torch.float64)
    totals = mixer(values, everybody(64), normal(5, 64, 5))
    assert bool((totals < 0).any())
    assert bool((totals > 0).any())


@given(seeds)
def test_the_greedy_joint_action_of_qplex_is_that_of_greedy_agents(seed):
    """Individual-global-max (Wang et al. 2021, definition 1), by trying out all joint actions."""
    mixer, state = duplex(seed), normal(seed + 1, 1, 5)
    tables = [normal(seed + 2 + i, CHOICES[i]) for i in range(AGENTS)]
    joint = torch.tensor(list(itertools.product(*(range(count) for count in CHOICES))))
    chosen = torch.stack([tables[i][joint[:, i]] for i in range(AGENTS)], -1)
    best = torch.stack([table.max() for table in tables]).expand_as(chosen)
    totals = mixer(chosen, everybody(len(joint)), state.expand(len(joint), 5), best, one_hot(joint))
    assert joint[totals.argmax()].tolist() == [int(table.argmax()) for table in tables]


@given(seeds)
def test_qplex_weighs_every_advantage_with_a_positive_number(seed):
    actions = one_hot(torch.stack([torch.arange(16) % count for count in CHOICES], -1))
    assert bool((duplex(seed).importance(normal(seed, 16, 5), actions) > 0).all())


def test_qplex_is_not_bound_to_sums_or_monotonic_functions():
    """λ depends on the joint action: how much one agent's choice is worth differs by what the others do."""
    mixer, state = duplex(1), normal(1, 1, 5)
    tables = [normal(2 + i, CHOICES[i]) for i in range(AGENTS)]
    best = torch.stack([table.max() for table in tables]).unsqueeze(0)

    def total(*actions):
        joint = torch.tensor([actions])
        chosen = torch.stack([tables[i][actions[i]] for i in range(AGENTS)]).unsqueeze(0)
        return mixer(chosen, everybody(1), state, best, one_hot(joint)).item()

    assert total(1, 0, 0) - total(0, 0, 0) != pytest.approx(total(1, 3, 0) - total(0, 3, 0), rel=1e-3)


def test_the_advantages_that_qplex_weighs_carry_no_gradient():
    mixer, state = duplex(2), normal(1, 4, 5)
    chosen, best = normal(2, 4, AGENTS).requires_grad_(), normal(3, 4, AGENTS).abs() + 9.0
    actions = one_hot(torch.zeros(4, AGENTS, dtype=torch.int64))
    (slopes,) = torch.autograd.grad(mixer(chosen, everybody(4), state, best, actions).sum(), chosen)
    expected = mixer.weights(state).abs()
    assert torch.allclose(slopes, expected, atol=1e-9)


@pytest.mark.parametrize("make", [monotonic, duplex])
@pytest.mark.parametrize("value", [1e9, -torch.inf, torch.nan])
def test_who_does_not_act_changes_nothing_and_gets_no_gradient(make, value):
    mixer, state = make(), normal(1, 6, 5)
    active = everybody(6)
    active[:, 1] = False
    chosen, best = normal(2, 6, AGENTS), normal(3, 6, AGENTS) + 9.0
    actions = one_hot(torch.zeros(6, AGENTS, dtype=torch.int64))
    strange, strange_best = chosen.clone(), best.clone()
    strange[:, 1] = strange_best[:, 1] = value
    strange.requires_grad_()
    expected = mixer(chosen, active, state, best, actions)
    found = mixer(strange, active, state, strange_best, actions)
    assert torch.equal(expected, found)
    found.sum().backward()
    assert strange.grad is not None
    assert strange.grad[:, 1].tolist() == [0.0] * 6
    for parameter in mixer.parameters():
        assert bool(torch.isfinite(parameter.grad).all())


@pytest.mark.parametrize("make", [monotonic, duplex])
def test_leading_dimensions_are_whatever_the_caller_has(make):
    mixer, state = make(), normal(1, 12, 5)
    chosen, best = normal(2, 12, AGENTS), normal(3, 12, AGENTS)
    actions = one_hot(torch.zeros(12, AGENTS, dtype=torch.int64))
    flat = mixer(chosen, everybody(12), state, best, actions)
    folded = [x.view(3, 4, -1) for x in (chosen, everybody(12), state, best, actions)]
    assert torch.allclose(mixer(*folded), flat.view(3, 4))


@pytest.mark.parametrize("kind", [MonotonicMixer, DuplexDuelingMixer])
def test_states_may_be_images(kind):
    spec = ArraySpec(shape=(8, 6, 3), dtype=torch.uint8)
    sizes = (AGENTS,) if kind is MonotonicMixer else (AGENTS, sum(CHOICES))
    mixer = kind(*sizes, spec, convolutions="yes")
    images = torch.randint(0, 256, (4, 8, 6, 3), generator=generator(0), dtype=torch.uint8)
    values = torch.zeros(4, AGENTS)
    actions = one_hot(torch.zeros(4, AGENTS, dtype=torch.int64)).float()
    assert mixer(values, everybody(4), images, values, actions).shape == (4,)


def test_fresh_mixers_begin_near_the_sum():
    torch.manual_seed(0)
    values, state = torch.randn(512, AGENTS), torch.randn(512, 5)
    actions = one_hot(torch.zeros(512, AGENTS, dtype=torch.int64)).float()
    for mixer in (MonotonicMixer(AGENTS, STATE), DuplexDuelingMixer(AGENTS, sum(CHOICES), STATE)):
        with torch.no_grad():
            totals = mixer(values, everybody(512), state, values, actions)
        slope = float((totals * values.sum(-1)).sum() / values.sum(-1).square().sum())
        assert 0.3 < slope < 3.0
