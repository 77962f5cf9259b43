"""Losses against numbers worked out by hand, and their gradients."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from marl.learning.losses import clipped_value_loss, huber, ppo_policy_loss, td_loss

numbers = st.floats(-5, 5, width=32)


def test_clipped_surrogate_is_the_one_of_the_papers_figure():
    # Schulman et al. 2017, figure 1: for A > 0 the objective is flat above 1 + ε, for A < 0 below 1 - ε.
    ratios = torch.tensor([0.5, 0.9, 1.0, 1.1, 1.5], dtype=torch.float64)
    positive = ppo_policy_loss(ratios.log(), torch.zeros(5).double(), torch.ones(5).double() * 2, 0.2)
    negative = ppo_policy_loss(ratios.log(), torch.zeros(5).double(), -torch.ones(5).double() * 2, 0.2)
    torch.testing.assert_close(-positive.loss, 2 * torch.tensor([0.5, 0.9, 1.0, 1.1, 1.2]).double())
    torch.testing.assert_close(-negative.loss, -2 * torch.tensor([0.8, 0.9, 1.0, 1.1, 1.5]).double())
    assert positive.clipped.tolist() == [1.0, 0.0, 0.0, 0.0, 1.0]


def test_gradient_vanishes_only_where_clipping_would_help_no_more():
    log_probs = torch.tensor([0.5, 1.5, 0.5, 1.5]).log().requires_grad_()
    advantages = torch.tensor([1.0, 1.0, -1.0, -1.0])
    ppo_policy_loss(log_probs, torch.zeros(4), advantages, 0.2).loss.sum().backward()
    assert log_probs.grad is not None
    # d(-ρ A) = -ρ A: kept where a bad ratio must still be corrected, gone where it is already past the clip.
    torch.testing.assert_close(log_probs.grad, torch.tensor([-0.5, 0.0, 0.0, 1.5]))


def test_gradient_at_equal_policies_is_the_policy_gradient():
    log_probs = torch.randn(7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    advantages = torch.linspace(-2, 2, 7, dtype=torch.float64)
    old = log_probs.clone()
    output = ppo_policy_loss(log_probs.requires_grad_(), old, advantages, 0.2)
    output.loss.sum().backward()
    torch.testing.assert_close(log_probs.grad, -advantages)
    assert not output.approx_kl.requires_grad
    assert output.approx_kl.eq(0).all()
    assert output.clipped.eq(0).all()


def test_divergence_estimate_is_unbiased_under_the_old_policy():
    old = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    new = torch.tensor([0.6, 0.1, 0.3], dtype=torch.float64)
    estimates = ppo_policy_loss(new.log(), old.log(), torch.zeros(3).double(), 0.2).approx_kl
    torch.testing.assert_close((old * estimates).sum(), (old * (old / new).log()).sum())


@given(st.floats(-3, 3, width=32))
def test_divergence_estimate_is_never_negative(log_ratio):
    estimate = ppo_policy_loss(torch.tensor([log_ratio]), torch.zeros(1), torch.zeros(1), 0.2).approx_kl
    assert estimate.item() >= 0.0


def test_divergence_estimate_keeps_its_digits_between_close_policies():
    estimate = ppo_policy_loss(torch.tensor([1e-2]), torch.zeros(1), torch.zeros(1), 0.2).approx_kl.item()
    assert math.isclose(estimate, math.expm1(1e-2) - 1e-2, rel_tol=1e-3)


def test_huber_is_a_parabola_then_a_line_on_both_sides():
    errors = torch.tensor([-12.0, -10.0, -1.0, 0.0, 0.5, 10.0, 12.0])
    assert huber(errors, 10.0).tolist() == [70.0, 50.0, 0.5, 0.0, 0.125, 50.0, 70.0]


@given(st.lists(numbers, min_size=1, max_size=8), st.floats(0.125, 4, width=32))
def test_huber_is_that_of_torch_with_its_gradient(errors, delta):
    ours = torch.tensor(errors, dtype=torch.float64, requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()
    loss = huber(ours, delta)
    expected = torch.nn.functional.huber_loss(theirs, torch.zeros_like(theirs), reduction="none", delta=delta)
    torch.testing.assert_close(loss, expected)
    loss.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_value_loss_is_the_larger_of_clipped_and_plain():
    # Old value 0, clip 0.2. Target 1: moving to 0.5 is clipped to 0.2, whose loss 0.32 is larger than 0.125.
    # Target 0.1: at 0.5 the plain loss 0.08 is larger than the clipped one, 0.005.
    values = torch.tensor([0.5, 0.5, 0.1], requires_grad=True)
    targets = torch.tensor([1.0, 0.1, 1.0])
    loss = clipped_value_loss(values, torch.zeros(3), targets, 0.2)
    torch.testing.assert_close(loss, torch.tensor([0.32, 0.08, 0.405]))
    loss.sum().backward()
    torch.testing.assert_close(values.grad, torch.tensor([0.0, 0.4, -0.9]))


def test_value_loss_without_clip_is_half_the_square_or_huber():
    values, targets = torch.tensor([1.0, 20.0]), torch.zeros(2)
    old = torch.full((2,), 100.0)
    assert clipped_value_loss(values, old, targets).tolist() == [0.5, 200.0]
    assert clipped_value_loss(values, old, targets, None, 10.0).tolist() == [0.5, 150.0]


@given(numbers, numbers, numbers, st.sampled_from([None, 0.2, 1.0]), st.sampled_from([None, 0.5, 10.0]))
def test_value_loss_is_never_below_the_plain_one(value, old, target, clip, delta):
    tensors = [torch.tensor([number], dtype=torch.float64) for number in (value, old, target)]
    assert clipped_value_loss(*tensors, clip, delta) >= clipped_value_loss(*tensors, None, delta)


def test_no_gradient_flows_into_the_targets_of_temporal_differences():
    values = torch.tensor([1.0, 5.0], requires_grad=True)
    targets = torch.tensor([0.0, 0.0], requires_grad=True)
    td_loss(values, targets, 1.0).sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [1.0, 1.0]
    assert targets.grad is None
    assert td_loss(values, targets).tolist() == [0.5, 12.5]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_losses_keep_dtype_and_shape_even_when_empty(dtype):
    for shape in ((3, 4, 2), (0, 2)):
        sample = torch.zeros(shape, dtype=dtype)
        outputs = (
            *ppo_policy_loss(sample, sample, sample, 0.2),
            clipped_value_loss(sample, sample, sample, 0.2, 10.0),
            td_loss(sample, sample),
        )
        for output in outputs:
            assert output.shape == shape
            assert output.dtype == dtype


def test_shapes_that_would_broadcast_are_refused():
    column, row = torch.zeros(3, 1), torch.zeros(3)
    with pytest.raises(ValueError, match=r"advantages has shape \(3,\), log_probs has \(3, 1\)"):
        ppo_policy_loss(column, column, row, 0.2)
    with pytest.raises(ValueError, match="targets has shape"):
        clipped_value_loss(column, column, row)
    with pytest.raises(ValueError, match="targets has shape"):
        td_loss(row, column)
