import math

import numpy as np
import pytest
import torch
from action_distributions import DTYPES, LEAST, MOST, uniforms

from marl.networks.gaussian import DiagonalGaussian, SquashedGaussian


@DTYPES
def test_gaussian_is_that_of_torch(dtype):
    generator = torch.Generator().manual_seed(0)
    mean, log_std = torch.randn(2, 6, 3, generator=generator, dtype=dtype)
    ours = DiagonalGaussian(mean, log_std)
    theirs = torch.distributions.Independent(torch.distributions.Normal(mean, log_std.exp()), 1)
    actions, log_probs = ours.sample_and_log_prob(uniforms(6, 3).to(dtype))
    torch.testing.assert_close(log_probs, theirs.log_prob(actions), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.log_prob(actions), theirs.log_prob(actions), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.entropy(), theirs.entropy())
    assert torch.equal(ours.mode(), mean)
    assert torch.equal(actions, ours.sample(uniforms(6, 3).to(dtype)))


def test_log_std_of_one_row_serves_all():
    log_std = torch.tensor([0.5, -1.0], requires_grad=True)
    distribution = DiagonalGaussian(torch.zeros(4, 3, 2), log_std)
    assert distribution.entropy().shape == (4, 3)
    distribution.entropy().sum().backward()
    assert log_std.grad is not None
    assert log_std.grad.tolist() == [12.0, 12.0]


@pytest.mark.parametrize("kind", [DiagonalGaussian, SquashedGaussian])
def test_extreme_uniform_numbers_give_finite_samples(kind):
    numbers = torch.tensor([[LEAST, MOST]]).expand(3, -1)
    distribution = kind(torch.tensor([[0.0, 0.0], [50.0, -50.0], [0.0, 0.0]]), torch.tensor([[0.0], [2.0], [-20.0]]))
    actions, log_probs = distribution.sample_and_log_prob(numbers)
    assert actions.isfinite().all()
    assert log_probs.isfinite().all()
    assert distribution.log_prob(actions).isfinite().all()
    assert distribution.entropy().isfinite().all()


def test_normal_samples_have_their_moments():
    samples = 20_000
    distribution = DiagonalGaussian(torch.tensor([2.0, -1.0]).expand(samples, -1), torch.tensor([0.5, 3.0]).log())
    actions = distribution.sample(uniforms(samples, 2)).double()
    error = 4 / math.sqrt(samples)
    standard = (actions - torch.tensor([2.0, -1.0])) / torch.tensor([0.5, 3.0])
    assert standard.mean(dim=0).abs().max() < error
    assert (standard.var(dim=0) - 1).abs().max() < error * math.sqrt(2)
    assert abs(standard.prod(dim=1).mean()) < error


@pytest.mark.parametrize("mean", [0.0, 0.8, -2.0])
@pytest.mark.parametrize("std", [0.1, 0.5, 1.0, 2.0])
def test_squashed_density_integrates_to_the_distribution_of_its_samples(mean, std):
    # Trapezoids over the action, in steps that are even before the tangent, so that the edges are resolved.
    raw = torch.linspace(mean - 7 * std, mean + 7 * std, 20_001, dtype=torch.float64)
    actions = torch.tanh(raw)
    distribution = SquashedGaussian(
        torch.full((1,), mean, dtype=torch.float64), torch.full((1,), math.log(std), dtype=torch.float64)
    )
    log_density = distribution.log_prob(actions.unsqueeze(-1))
    keep = actions.abs() < 1.0 - 1e-9  # Nearer to the edge the action does not tell raw numbers apart.
    density, grid = log_density.exp()[keep], actions[keep]
    mass = torch.cumulative_trapezoid(density, grid)
    lost = 1.0 - 0.5 * (
        torch.erf((raw[keep][-1] - mean) / std / 2**0.5) - torch.erf((raw[keep][0] - mean) / std / 2**0.5)
    )
    assert abs(mass[-1] + lost - 1.0) < 1e-5

    samples = 20_000
    numbers = uniforms(samples, 1).double()
    drawn = SquashedGaussian(torch.full((samples, 1), mean).double(), torch.full((1,), math.log(std)).double())
    sorted_draws = drawn.sample(numbers).squeeze(-1).sort().values
    # Kolmogorov-Smirnov: the 0.9999 quantile of the distance is about 2.23 / sqrt(n).
    cumulative = np.interp(sorted_draws.numpy(), grid[1:].numpy(), (mass + lost / 2).numpy())
    distance = np.abs(cumulative - (np.arange(samples) + 0.5) / samples).max()
    assert distance < 2.23 / math.sqrt(samples) + float(lost)


@pytest.mark.parametrize("mean", [0.0, 0.8, -2.0, 5.0])
@pytest.mark.parametrize("std", [0.05, 0.5, 1.0, 2.0])
def test_squashed_entropy_is_the_integral(mean, std):
    raw = torch.linspace(mean - 9 * std, mean + 9 * std, 40_001, dtype=torch.float64)
    density = torch.exp(-0.5 * ((raw - mean) / std) ** 2) / (std * math.sqrt(2 * math.pi))
    slope = 2 * (math.log(2) - raw.abs() - torch.log1p(torch.exp(-2 * raw.abs())))
    expected = 0.5 + 0.5 * math.log(2 * math.pi) + math.log(std) + torch.trapezoid(density * slope, raw)
    distribution = SquashedGaussian(torch.full((1, 3), mean).double(), torch.full((3,), math.log(std)).double())
    assert abs(distribution.entropy().item() / 3 - expected.item()) < 0.004


def test_squashed_entropy_has_gradients_that_pull_away_from_the_edges():
    mean = torch.tensor([[3.0, -3.0]], requires_grad=True)
    log_std = torch.zeros(1, 2, requires_grad=True)
    SquashedGaussian(mean, log_std).entropy().sum().backward()
    assert mean.grad is not None
    assert log_std.grad is not None
    assert mean.grad[0, 0] < -1.5
    assert mean.grad[0, 1] > 1.5


@DTYPES
def test_squashed_log_prob_agrees_along_both_ways(dtype):
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(50, 3, generator=generator, dtype=dtype)
    distribution = SquashedGaussian(mean, torch.zeros(3, dtype=dtype))
    actions, log_probs = distribution.sample_and_log_prob(uniforms(50, 3).to(dtype))
    assert actions.abs().max() <= 1.0
    tolerance = 2e-2 if dtype == torch.float32 else 1e-9
    torch.testing.assert_close(distribution.log_prob(actions), log_probs, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(distribution.mode(), torch.tanh(mean))


@pytest.mark.parametrize("kind", [DiagonalGaussian, SquashedGaussian])
def test_gaussian_samples_carry_the_gradient_of_their_path(kind):
    mean = torch.tensor([[0.3, -0.4]], dtype=torch.float64, requires_grad=True)
    log_std = torch.tensor([[-0.5, 0.2]], dtype=torch.float64, requires_grad=True)
    numbers = uniforms(1, 2).double()
    assert torch.autograd.gradcheck(lambda m, s: kind(m, s).sample_and_log_prob(numbers), (mean, log_std))
    assert torch.autograd.gradcheck(lambda m, s: kind(m, s).entropy(), (mean, log_std))
    actions = kind(mean, log_std).sample(numbers).detach()
    assert torch.autograd.gradcheck(lambda m, s: kind(m, s).log_prob(actions), (mean, log_std))
