import itertools
import math

import pytest
import torch
from action_distributions import DTYPES, LEAST, MOST, uniforms
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from marl.networks.categorical import MaskedCategorical, MultiCategorical, mask_scores
from marl.random_streams import Stream

SIZES = [1, 2, 5, 15, 16, 40]


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("weight", [0.01, 1.0, 2.5, 100.0, 1e4])
@pytest.mark.parametrize("nvec", [(5,), (2, 3, 7)], ids=str)
def test_entropy_of_any_weight_stays_finite_where_choices_are_illegal(nvec, weight, dtype):
    """Values, divergences and bonuses all sum up probability × (value + weight × log-probability)."""
    logits, mask = random_logits_and_mask(0, 16, sum(nvec), 30.0)
    mask[:, [0, *itertools.accumulate(nvec[:-1])]] = True
    logits = logits.to(dtype).requires_grad_()
    distribution = MultiCategorical(logits, nvec, mask)
    part = MaskedCategorical(logits[:, : nvec[0]], mask[:, : nvec[0]])
    value = (part.probs * (part.log_probs.detach() + weight * part.log_probs)).sum() + weight * part.entropy().sum()
    (value + weight * distribution.entropy().sum()).backward()
    assert value.isfinite()
    assert logits.grad.isfinite().all()
    assert logits.grad[~mask].eq(0.0).all()


def test_illegal_choices_are_improbable_however_low_the_legal_scores_are():
    logits, mask = torch.tensor([[-1e12, -1e12, 0.0]]), torch.tensor([[True, True, False]])
    assert MaskedCategorical(logits, mask).probs.tolist() == [[0.5, 0.5, 0.0]]


def test_a_masked_score_vanishes_in_a_product_with_zero():
    scores = mask_scores(torch.tensor([[5.0, 1.0]]), torch.tensor([[False, False]]))
    assert (0.0 * scores).eq(0.0).all()
