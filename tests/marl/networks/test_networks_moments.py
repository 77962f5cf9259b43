import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from moment_samples import batches, samples

from marl.networks.moments import ExponentialMoments, RunningMoments
from marl.networks.normalizers import ObservationNormalizer, ValueNormalizer

KINDS = [RunningMoments, ExponentialMoments]


@given(st.integers(0, 2**32), batches, st.sampled_from([(), (3,), (2, 2)]))
def test_running_moments_are_those_of_all_samples_together(seed, sizes, shape):
    moments = RunningMoments(shape)
    parts = [3.0 + 2.0 * samples(seed + number, size, *shape) for number, size in enumerate(sizes)]
    for part in parts:
        moments.update(moments.batch_moments(part))
    everything = torch.cat(parts)
    assert moments.count == sum(sizes)
    if sum(sizes):
        torch.testing.assert_close(moments.mean, everything.mean(dim=0), rtol=1e-12, atol=1e-12)
        expected = everything.var(dim=0, correction=0)
        torch.testing.assert_close(moments.variance, expected, rtol=1e-12, atol=1e-12)
    else:
        assert moments.mean.eq(0).all()
        assert moments.variance.eq(1).all()


@pytest.mark.parametrize("kind", KINDS)
@given(st.integers(0, 2**32), st.lists(st.integers(0, 4), min_size=3, max_size=3))
def test_ranks_with_uneven_shares_agree_with_one_rank(kind, seed, shares):
    shares = [*shares, 0]  # The last rank has nothing.
    one, many = kind((2,)), kind((2,))
    for update in range(3):
        batch = samples(seed + update, sum(shares), 5, 2)
        mask = samples(seed + update + 3, sum(shares), 5) > 0
        one.update(one.batch_moments(batch, mask))
        parts = zip(batch.split(shares), mask.split(shares), strict=True)
        many.update(torch.stack([many.batch_moments(part, part_mask) for part, part_mask in parts]).sum(dim=0))
    for name, tensor in one.state_dict().items():
        torch.testing.assert_close(many.state_dict()[name], tensor, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_masked_samples_do_not_count_even_if_they_are_nan(kind):
    masked, plain = kind((2,)), kind((2,))
    batch = samples(0, 4, 3, 2)
    mask = torch.tensor([[True, False, True]]).expand(4, 3)
    plain.update(plain.batch_moments(batch[:, ::2]))
    batch[:, 1] = math.nan
    masked.update(masked.batch_moments(batch, mask))
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(masked.state_dict()[name], tensor)


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_batch_changes_nothing(kind):
    moments = kind((3,))
    for _ in range(2):
        before = moments.state_dict()
        moments.update(moments.batch_moments(torch.zeros(0, 3)))
        moments.update(moments.batch_moments(torch.ones(4, 3), torch.zeros(4, dtype=torch.bool)))
        after = moments.state_dict()
        assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
        moments.update(moments.batch_moments(samples(0, 5, 3)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_variance_survives_a_mean_far_from_zero(kind, dtype):
    # In float32, sums of squares around zero would have no digit of the variance left.
    moments = kind()
    batch = (10_000 + samples(0, 5_000)).to(dtype)
    for part in batch.split(100):
        moments.update(moments.batch_moments(part))
    exact = batch.double()
    assert abs(moments.mean - exact.mean()) < 1e-3
    assert abs(moments.variance / exact.var() - 1) < (2e-2 if kind is ExponentialMoments else 1e-3)


def test_states_that_do_not_fit_are_refused_and_change_nothing():
    normalizer = ObservationNormalizer((2,))
    normalizer.update(normalizer.batch_moments(samples(0, 5, 2)))
    before = normalizer.state_dict()
    with pytest.raises(ValueError, match=r"mean has shape \(3,\), not \(2,\)"):
        normalizer.load_state_dict(ObservationNormalizer((3,)).state_dict())
    with pytest.raises(KeyError):
        normalizer.load_state_dict(ValueNormalizer((2,)).state_dict())
    assert all(torch.equal(tensor, before[name]) for name, tensor in normalizer.state_dict().items())
