"""Exploration noise is what its sources say."""

import pytest
import torch

from marl.algorithms.actor_critic.exploration import Exploration, GaussianNoise, OrnsteinUhlenbeckNoise, make_noise
from marl.errors import InputError

GENERATOR = torch.Generator().manual_seed(0)


def play(noise, steps, *, envs=64, agents=2, size=3, first=None):
    """(steps, E, A, D) noise of so many steps."""
    state = noise.initial_state(envs, agents, size)
    rows = []
    for step in range(steps):
        begins = torch.zeros(envs, dtype=torch.bool) if first is None else first[step]
        row, state = noise.next(torch.randn(envs, agents, size, generator=GENERATOR), state, begins)
        rows.append(row)
    return torch.stack(rows)


def test_gaussian_noise_has_its_deviation_and_no_memory():
    rows = play(GaussianNoise(deviation=0.3), 200)
    assert rows.std().item() == pytest.approx(0.3, rel=0.02)
    assert (rows[1:] * rows[:-1]).mean().item() == pytest.approx(0.0, abs=0.002)
    assert GaussianNoise().initial_state(2, 3, 4) is None


def test_ornstein_uhlenbeck_noise_approaches_its_limit_and_is_correlated():
    noise = OrnsteinUhlenbeckNoise(theta=0.2, sigma=0.3)
    rows = play(noise, 400)[100:]
    assert noise.limit == pytest.approx(0.5)
    assert rows.std().item() == pytest.approx(0.5, rel=0.05)
    for lag in (1, 3):
        correlation = (rows[lag:] * rows[:-lag]).mean() / rows.square().mean()
        assert correlation.item() == pytest.approx(0.8**lag, abs=0.04)


def test_ornstein_uhlenbeck_noise_follows_its_recursion_and_forgets_at_first_steps():
    noise = OrnsteinUhlenbeckNoise(theta=0.15, sigma=0.2)
    normals, before = torch.randn(2, 1, 2, generator=GENERATOR), torch.ones(2, 1, 2)
    row, state = noise.next(normals, before, torch.tensor([False, True]))
    expected = torch.stack((0.85 + 0.2 * normals[0], 0.2 * normals[1]))
    torch.testing.assert_close(row, expected)
    assert torch.equal(row, state)
    assert torch.equal(before, torch.ones(2, 1, 2))


def test_with_theta_one_ornstein_uhlenbeck_noise_is_gaussian():
    normals, nothing = torch.randn(3, 2, 4, generator=GENERATOR), torch.zeros(3, dtype=torch.bool)
    ours, _ = make_noise("ornstein-uhlenbeck", deviation=0.2, theta=1.0).next(normals, torch.ones(3, 2, 4), nothing)
    theirs, _ = make_noise("gaussian", deviation=0.2, theta=1.0).next(normals, None, nothing)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(("deviation", "theta"), [(-0.1, 0.5), (float("nan"), 0.5), (0.1, 0.0), (0.1, 1.5)])
def test_senseless_numbers_are_refused(deviation, theta):
    with pytest.raises(InputError, match=r"must be"):
        make_noise("ornstein-uhlenbeck", deviation=deviation, theta=theta)


def test_how_much_is_explored_is_saved_with_the_networks():
    exploration, other = Exploration(), Exploration()
    assert not exploration.learning
    exploration.set(0.25)
    other.load_state_dict(exploration.state_dict())
    assert (bool(other.learning), other.scale.item()) == (True, 0.25)
