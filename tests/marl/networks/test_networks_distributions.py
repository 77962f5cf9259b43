"""Distributions over actions: probabilities, samples from fixed streams, gradients, and masks at their limits."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from marl.networks.action_heads import make_distribution, num_outputs, num_uniforms, relaxed_sample
from marl.networks.categorical import MaskedCategorical, MultiCategorical
from marl.networks.gaussian import LOG_STD_RANGE, DiagonalGaussian, SquashedGaussian
from marl.specs import ContinuousActions, DiscreteActions, MultiDiscreteActions
from marl.streams import Stream

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
LEAST, MOST = 2.0**-24, 1.0 - 2.0**-24
SIZES = [1, 2, 5, 15, 16, 40]
"""Numbers of choices on both sides of the change of kernels."""


def uniforms(*shape: int) -> Tensor:
    return Stream(1, "test", num_envs=math.prod(shape[:-1])).uniforms(0, shape[-1]).view(shape)


def random_logits_and_mask(seed: int, rows: int, size: int, scale: float) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(rows, size, generator=generator)
    mask = torch.rand(rows, size, generator=generator) < 0.5
    mask[torch.arange(rows), torch.randint(size, (rows,), generator=generator)] = True
    return logits, mask


masked_rows = {
    "seed": st.integers(0, 2**32),
    "size": st.sampled_from(SIZES),
    "scale": st.sampled_from([0.0, 1.0, 30.0, 1e4]),
}


@DTYPES
@pytest.mark.parametrize("size", SIZES)
def test_categorical_is_that_of_torch(dtype, size):
    logits = torch.randn(6, 3, size, generator=torch.Generator().manual_seed(0), dtype=dtype)
    ours, theirs = MaskedCategorical(logits), torch.distributions.Categorical(logits=logits)
    actions = ours.sample(uniforms(6, 3, 1))
    assert actions.dtype == torch.int64
    assert actions.shape == (6, 3)
    torch.testing.assert_close(ours.log_prob(actions), theirs.log_prob(actions))
    torch.testing.assert_close(ours.entropy(), theirs.entropy())
    torch.testing.assert_close(ours.probs, theirs.probs)
    assert torch.equal(ours.mode(), logits.argmax(dim=-1))


@given(**masked_rows)
def test_illegal_choices_have_no_probability_and_the_others_all_of_it(seed, size, scale):
    logits, mask = random_logits_and_mask(seed, 4, size, scale)
    distribution = MaskedCategorical(logits, mask)
    assert distribution.probs[~mask].eq(0.0).all()
    torch.testing.assert_close(distribution.probs.sum(dim=-1), torch.ones(4))
    # The same as if illegal choices had never been there, up to what float32 knows of large logits' differences.
    atol = 1e-5 + 1e-7 * scale
    for row in range(4):
        alone = torch.distributions.Categorical(logits=logits[row, mask[row]])
        torch.testing.assert_close(distribution.log_probs[row, mask[row]], alone.logits, rtol=1e-5, atol=atol)
        torch.testing.assert_close(distribution.entropy()[row], alone.entropy(), rtol=1e-5, atol=atol)
    assert mask.gather(-1, distribution.mode().unsqueeze(-1)).all()


@given(**masked_rows)
def test_illegal_choices_are_never_sampled_not_even_at_the_ends(seed, size, scale):
    logits, mask = random_logits_and_mask(seed, 64, size, scale)
    distribution = MaskedCategorical(logits, mask)
    for number in (0.0, 1e-38, LEAST, 0.25, 0.5, 0.75, MOST, 1.0):
        actions = distribution.sample(torch.full((64, 1), number))
        assert mask.gather(-1, actions.unsqueeze(-1)).all()
    for step in range(8):
        actions = distribution.sample(Stream(seed, "test", num_envs=64).uniforms(step, 1)[0])
        assert mask.gather(-1, actions.unsqueeze(-1)).all()


@given(**masked_rows)
def test_masks_leave_every_gradient_finite_and_none_for_illegal_logits(seed, size, scale):
    logits, mask = random_logits_and_mask(seed, 4, size, scale)
    logits.requires_grad_()
    distribution = MaskedCategorical(logits, mask)
    actions = distribution.sample(uniforms(4, 1))
    (distribution.log_prob(actions) + distribution.entropy()).sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert logits.grad[~mask].eq(0.0).all()


@DTYPES
@pytest.mark.parametrize("size", SIZES)
def test_one_legal_choice_is_certain(dtype, size):
    logits = (100 * torch.randn(size, size, generator=torch.Generator().manual_seed(0), dtype=dtype)).requires_grad_()
    distribution = MaskedCategorical(logits, torch.eye(size, dtype=torch.bool))
    actions, log_probs = distribution.sample_and_log_prob(uniforms(size, 1))
    assert actions.tolist() == list(range(size))
    assert log_probs.eq(0.0).all()
    assert distribution.entropy().eq(0.0).all()
    (log_probs + distribution.entropy()).sum().backward()
    assert logits.grad is not None
    assert logits.grad.eq(0.0).all()


def test_illegal_actions_of_agents_that_wait_have_finite_log_probs():
    logits, mask = random_logits_and_mask(0, 5, 4, 1.0)
    mask[:, 0], mask[:, 1] = False, True
    actions = torch.zeros(5, dtype=torch.int64)
    first, second = (MaskedCategorical(shift + logits, mask).log_prob(actions) for shift in (0.0, 3.0))
    assert torch.isfinite(first).all()
    assert torch.equal(first, second)  # So that a probability ratio of theirs is 1, not NaN.


@pytest.mark.parametrize("size", [2, 5, 20])
def test_choices_are_sampled_as_often_as_they_should_be(size):
    logits, mask = random_logits_and_mask(1, 1, size, 1.0)
    samples = 20_000
    distribution = MaskedCategorical(logits.expand(samples, -1), mask.expand(samples, -1))
    counts = torch.bincount(distribution.sample(uniforms(samples, 1)), minlength=size).double()
    expected = samples * distribution.probs[0].double()
    legal = mask[0]
    assert counts[~legal].eq(0).all()
    # Chi-square with k degrees of freedom has mean k and variance 2 k.
    chi_square = ((counts - expected)[legal] ** 2 / expected[legal]).sum().item()
    degrees = int(legal.sum()) - 1
    assert chi_square < degrees + 4 * math.sqrt(2 * degrees) + 1e-9


def test_the_uniform_number_is_the_quantile():
    distribution = MaskedCategorical(torch.tensor([0.1, 0.2, 0.7]).log().expand(6, -1))
    numbers = torch.tensor([[0.05], [0.0999], [0.1001], [0.2999], [0.3001], [0.99]])
    assert distribution.sample(numbers).tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("nvec", [(3,), (4, 4), (2, 5, 3), (1, 20)])
def test_several_choices_are_independent_categoricals(nvec, masked):
    parts = [random_logits_and_mask(seed, 7, size, 2.0) for seed, size in enumerate(nvec)]
    logits = torch.cat([part[0] for part in parts], dim=-1).requires_grad_()
    mask = torch.cat([part[1] for part in parts], dim=-1) if masked else None
    joint = MultiCategorical(logits, nvec, mask)
    numbers = uniforms(7, len(nvec))
    actions, log_probs = joint.sample_and_log_prob(numbers)
    singles = [
        MaskedCategorical(part, single_mask if masked else None)
        for part, (_, single_mask) in zip(logits.split(nvec, dim=-1), parts, strict=True)
    ]
    columns = list(actions.unbind(dim=-1))
    for column, single in enumerate(singles):
        assert torch.equal(columns[column], single.sample(numbers[:, column : column + 1]))
        assert torch.equal(joint.mode()[:, column], single.mode())
    torch.testing.assert_close(log_probs, sum(s.log_prob(a) for s, a in zip(singles, columns, strict=True)))
    torch.testing.assert_close(joint.entropy(), sum(single.entropy() for single in singles))
    (log_probs.sum() + joint.entropy().sum()).backward()
    gradient = logits.grad
    assert gradient is not None
    assert gradient.isfinite().all()
    logits.grad = None
    sum((s.log_prob(a) + s.entropy()).sum() for s, a in zip(singles, columns, strict=True)).backward()
    torch.testing.assert_close(gradient, logits.grad)


def test_several_choices_work_with_time_copy_and_agent_dimensions():
    joint = MultiCategorical(torch.randn(2, 3, 4, 5), (2, 3), torch.ones(2, 3, 4, 5, dtype=torch.bool))
    assert joint.sample(uniforms(2, 3, 4, 2)).shape == (2, 3, 4, 2)
    assert joint.entropy().shape == (2, 3, 4)


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


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("size", [5, 20])
def test_categorical_gradients_are_right(size, masked):
    logits, mask = random_logits_and_mask(0, 3, size, 1.0)
    logits = logits.double().requires_grad_()
    actions = mask.long().argmax(dim=-1)

    def both(values: Tensor) -> tuple[Tensor, Tensor]:
        distribution = MaskedCategorical(values, mask if masked else None)
        return distribution.log_prob(actions), distribution.entropy()

    assert torch.autograd.gradcheck(both, (logits,))


CONTINUOUS = ContinuousActions(low=(-1.0,) * 3, high=(1.0,) * 3)


@pytest.mark.parametrize(
    ("spec", "options", "outputs", "numbers"),
    [
        (DiscreteActions(num_actions=5), {}, 5, 1),
        (MultiDiscreteActions(nvec=(2, 3)), {}, 5, 2),
        (CONTINUOUS, {"log_std": torch.zeros(3)}, 3, 3),
        (CONTINUOUS, {"log_std": torch.zeros(3), "squashed": True}, 3, 3),
        (CONTINUOUS, {}, 6, 3),
        (CONTINUOUS, {"squashed": True}, 6, 3),
    ],
)
@pytest.mark.parametrize("leading", [(), (0,), (4, 2)])
def test_distributions_are_made_for_every_kind_of_action(spec, options, outputs, numbers, leading):
    assert num_outputs(spec, state_dependent_std="log_std" not in options) == outputs
    assert num_uniforms(spec) == numbers
    distribution = make_distribution(spec, torch.randn(*leading, outputs), None, **options)
    actions, log_probs = distribution.sample_and_log_prob(torch.rand(*leading, numbers))
    for tensor in (actions, distribution.mode()):
        assert tensor.shape == (*leading, *spec.array.shape)
        assert tensor.dtype == spec.array.dtype
    assert log_probs.shape == distribution.log_prob(actions).shape == distribution.entropy().shape == leading


@pytest.mark.parametrize(
    ("spec", "squashed"),
    [
        (DiscreteActions(num_actions=5), False),
        (MultiDiscreteActions(nvec=(2, 3)), False),
        (CONTINUOUS, False),
        (CONTINUOUS, True),
    ],
)
def test_distributions_can_be_compiled_without_a_break(spec, squashed):
    outputs, numbers = torch.randn(4, num_outputs(spec, state_dependent_std=True)), uniforms(4, num_uniforms(spec))

    def figures(outputs: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        distribution = make_distribution(spec, outputs, None, squashed=squashed)
        return (*distribution.sample_and_log_prob(numbers), distribution.entropy())

    compiled = torch.compile(figures, backend="eager", fullgraph=True)
    for one, two in zip(compiled(outputs, numbers), figures(outputs, numbers), strict=True):
        torch.testing.assert_close(one, two)


def test_masks_reach_the_choices():
    mask = torch.tensor([False, True, True, False, False])
    assert make_distribution(MultiDiscreteActions(nvec=(2, 3)), torch.zeros(5), mask).mode().tolist() == [1, 0]
    assert make_distribution(DiscreteActions(num_actions=5), torch.zeros(5), mask).mode().item() == 1


def test_a_networks_standard_deviations_stay_in_range():
    outputs = torch.tensor([0.0, 0.0, -1e9, 1e9])
    distribution = make_distribution(ContinuousActions(low=(0.0, 0.0), high=(1.0, 1.0)), outputs, None)
    assert isinstance(distribution, DiagonalGaussian)
    assert tuple(distribution.log_std.tolist()) == LOG_STD_RANGE


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"last dimension 4, but .* needs 5"):
        make_distribution(DiscreteActions(num_actions=5), torch.zeros(2, 4), None)
    with pytest.raises(ValueError, match="mask has shape"):
        make_distribution(DiscreteActions(num_actions=5), torch.zeros(2, 5), torch.ones(5, dtype=torch.bool))
    with pytest.raises(ValueError, match="cannot be masked"):
        make_distribution(CONTINUOUS, torch.zeros(2, 6), torch.ones(2, 6, dtype=torch.bool))
    with pytest.raises(ValueError, match="needs 3"):
        make_distribution(CONTINUOUS, torch.zeros(2, 6), None, log_std=torch.zeros(3))
    with pytest.raises(ValueError, match="mask has shape"):
        MultiCategorical(torch.zeros(2, 5), (2, 3), torch.ones(2, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match="sum of nvec"):
        MultiCategorical(torch.zeros(2, 6), (2, 3))


def test_relaxed_samples_are_one_hot_samples_of_the_choices():
    spec = MultiDiscreteActions(nvec=(3, 2))
    logits = torch.tensor([1.0, 0.0, -1.0, 0.3, -0.3])
    uniforms = Stream(0, "relaxed", num_envs=20_000).uniforms(0, 5)[0]
    drawn = relaxed_sample(spec, logits.expand(20_000, 5), None, uniforms, temperature=0.3)
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    expected = torch.cat((logits[:3].softmax(0), logits[3:].softmax(0)))
    torch.testing.assert_close(drawn.mean(0), expected, atol=0.015, rtol=0)


@pytest.mark.parametrize("temperature", [1e-3, 0.5, 2.0])
def test_gradients_of_relaxed_samples_are_those_of_the_relaxation(temperature):
    logits = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    uniforms, weights = torch.rand(6, 4, dtype=torch.float64), torch.randn(6, 4, dtype=torch.float64)
    drawn = relaxed_sample(DiscreteActions(num_actions=4), logits, None, uniforms, temperature=temperature)
    (ours,) = torch.autograd.grad((weights * drawn).sum(), logits)
    soft = ((logits - torch.log(-torch.log(uniforms))) / temperature).softmax(-1)
    (theirs,) = torch.autograd.grad((weights * soft).sum(), logits)
    torch.testing.assert_close(ours, theirs)


def test_relaxed_samples_are_legal_and_send_no_gradient_into_illegal_logits():
    logits = torch.tensor([[50.0, 0.0, 1.0], [3.0, 2.0, 1.0]], requires_grad=True)
    mask = torch.tensor([[False, True, True], [False, False, True]])
    drawn = relaxed_sample(DiscreteActions(num_actions=3), logits, mask, torch.rand(2, 3), temperature=0.1)
    assert not drawn[~mask].any()
    assert drawn.sum(-1).tolist() == [1.0, 1.0]
    (drawn * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    assert logits.grad.isfinite().all()
    assert not logits.grad[~mask].any()


def test_relaxed_samples_of_shapes_that_do_not_fit_are_refused():
    spec = DiscreteActions(num_actions=3)
    with pytest.raises(ValueError, match="uniforms have shape"):
        relaxed_sample(spec, torch.zeros(2, 3), None, torch.rand(2, 1))
    with pytest.raises(ValueError, match="logits have shape"):
        relaxed_sample(spec, torch.zeros(2, 4), None, torch.rand(2, 4))
