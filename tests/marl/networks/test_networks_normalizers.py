"""Running moments and normalisers: equal for any split over ranks, and equal to plain formulas."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from moment_samples import samples
from torch import Tensor, nn

from marl.networks.moments import RunningMoments
from marl.networks.normalizers import ObservationNormalizer, RewardNormalizer, ValueNormalizer, popart_rescale


def value_norm_of_the_paper(batches: list[Tensor], beta: float) -> tuple[Tensor, Tensor]:
    """The formulas of MAPPO's ValueNorm (marlbenchmark/on-policy, onpolicy/utils/valuenorm.py), in float64."""
    mean = square = debiasing = torch.zeros((), dtype=torch.float64)
    for batch in batches:
        mean = beta * mean + (1 - beta) * batch.mean(dim=0)
        square = beta * square + (1 - beta) * batch.square().mean(dim=0)
        debiasing = beta * debiasing + (1 - beta)
    mean, square = mean / debiasing.clamp(min=1e-5), square / debiasing.clamp(min=1e-5)
    return mean, (square - mean**2).clamp(min=1e-2).sqrt()


@given(st.integers(0, 2**32), st.integers(1, 6), st.sampled_from([0.5, 0.99, 0.99999]), st.floats(0, 3))
def test_value_normalizer_is_value_norm(seed, updates, beta, scale):
    parts = [scale * samples(seed + number, 7, 2) - 1.0 for number in range(updates)]
    normalizer = ValueNormalizer((2,), beta=beta)
    for part in parts:
        normalizer.update(normalizer.batch_moments(part))
    mean, std = value_norm_of_the_paper(parts, beta)
    torch.testing.assert_close(normalizer.mean, mean, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(normalizer.std, std, rtol=1e-7, atol=1e-9)


def test_value_normalizer_after_two_updates_by_hand():
    # β = 1/2: weights 1/4 and 1/2 of batches (0, 2) and (6), so 1/3 and 2/3.
    # Mean (1/3) 1 + (2/3) 6 = 13/3, mean square (1/3) 2 + (2/3) 36 = 74/3, variance 74/3 - 169/9 = 53/9.
    normalizer = ValueNormalizer(beta=0.5)
    for batch in ([0.0, 2.0], [6.0]):
        normalizer.update(normalizer.batch_moments(torch.tensor(batch)))
    assert math.isclose(normalizer.mean, 13 / 3)
    assert math.isclose(normalizer.std, math.sqrt(53) / 3)


def test_small_variances_of_values_are_bounded_from_below():
    normalizer = ValueNormalizer()
    normalizer.update(normalizer.batch_moments(torch.full((4,), 3.0)))
    assert math.isclose(normalizer.std, 0.1)
    assert normalizer.normalize(torch.tensor(3.0)) == 0.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("make", [lambda: ValueNormalizer((3,)), lambda: ObservationNormalizer((3,))])
def test_denormalize_undoes_normalize(make, dtype):
    normalizer = make()
    values = 5 + 3 * samples(0, 50, 4, 3, dtype=dtype)
    torch.testing.assert_close(normalizer.normalize(values.clamp(-9, 9)), values.clamp(-9, 9))  # Nothing is known yet.
    for _ in range(2):  # What was cast before must not outlive an update.
        normalizer.update(normalizer.batch_moments(values))
        normalized = normalizer.normalize(values)
        assert normalized.dtype == dtype
        torch.testing.assert_close(normalized.mean(dim=(0, 1)), torch.zeros(3, dtype=dtype), rtol=0, atol=1e-5)
        torch.testing.assert_close(normalized.std(dim=(0, 1)), torch.ones(3, dtype=dtype), rtol=0, atol=1e-2)
        torch.testing.assert_close(normalizer.denormalize(normalized), values)
        values = 2 * values - 1
        normalizer = make()


def test_an_update_reaches_numbers_that_were_cast_before():
    normalizer = ValueNormalizer()
    values = torch.tensor([1.0, 3.0])
    assert torch.equal(normalizer.normalize(values), values)
    normalizer.update(normalizer.batch_moments(values))
    assert normalizer.normalize(values).tolist() == [-1.0, 1.0]
    assert normalizer.denormalize(torch.tensor([0.0])).tolist() == [2.0]


def test_gradients_pass_through_but_statistics_ask_for_none():
    normalizer = ValueNormalizer()
    normalizer.update(normalizer.batch_moments(torch.tensor([0.0, 4.0], requires_grad=True)))
    values = torch.tensor([1.0], requires_grad=True)
    normalizer.normalize(values).backward()
    assert values.grad == 0.5
    assert not normalizer.mean.requires_grad


def test_observations_are_clipped_and_constant_elements_stay_finite():
    normalizer = ObservationNormalizer((2,))
    batch = torch.stack((samples(0, 100).float(), torch.full((100,), 7.0)), dim=1)
    normalizer.update(normalizer.batch_moments(batch))
    assert normalizer.normalize(batch)[:, 1].eq(0).all()
    assert normalizer.normalize(torch.tensor([[1e6, 7.5], [-1e6, -7.5]])).tolist() == [[10, 10], [-10, -10]]


@pytest.mark.parametrize("make", [lambda: ValueNormalizer((3,)), lambda: ObservationNormalizer((3,))])
def test_a_restored_normalizer_goes_on_to_the_same_bits(make):
    original, restored = make(), make()
    original.update(original.batch_moments(samples(0, 10, 3)))
    restored.normalize(torch.zeros(1, 3))  # Has something cast that the loading must refresh.
    restored.load_state_dict(original.state_dict())
    for seed in (1, 2):
        values = samples(seed, 10, 3, dtype=torch.float32)
        assert torch.equal(original.normalize(values), restored.normalize(values))
        for normalizer in (original, restored):
            normalizer.update(normalizer.batch_moments(values))
    for name, tensor in original.state_dict().items():
        assert torch.equal(tensor, restored.state_dict()[name])


def test_saved_states_do_not_change_with_later_updates():
    normalizer = ValueNormalizer()
    state = normalizer.state_dict()
    normalizer.update(normalizer.batch_moments(torch.ones(3)))
    assert state["mean"] == 0.0


def test_popart_needs_a_bias_to_move():
    with pytest.raises(ValueError, match="with a bias"):
        ValueNormalizer(output_layers=[nn.Linear(4, 1, bias=False)])


def test_wrong_shapes_are_refused():
    moments = RunningMoments((3,))
    with pytest.raises(ValueError, match=r"does not end in \(3,\)"):
        moments.batch_moments(torch.zeros(5, 2))
    with pytest.raises(ValueError, match="does not end in"):
        moments.batch_moments(torch.zeros(()))
    with pytest.raises(ValueError, match="mask has shape"):
        moments.batch_moments(torch.zeros(5, 3), torch.ones(5, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="sums have shape"):
        moments.update(torch.zeros(6))


@given(st.integers(0, 2**32), st.integers(1, 3))
def test_popart_keeps_what_the_layer_says(seed, width):
    weight, bias, inputs = samples(seed, width, 4), samples(seed + 1, width), samples(seed + 2, 6, 4)
    old_mean, new_mean = samples(seed + 3, 2, width)
    old_std, new_std = samples(seed + 4, 2, width).exp()
    before = (inputs @ weight.T + bias) * old_std + old_mean
    popart_rescale(weight, bias, old_mean, old_std, new_mean, new_std)
    torch.testing.assert_close((inputs @ weight.T + bias) * new_std + new_mean, before, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("shape", "width"), [((), 1), ((3,), 3)])
def test_values_stay_as_they_were_when_popart_learns_new_moments(shape, width):
    layers = [nn.Linear(4, width), nn.Linear(4, width)]
    normalizer = ValueNormalizer(shape, beta=0.9, output_layers=layers)
    inputs = samples(0, 6, 4, dtype=torch.float32)
    for update in range(3):
        before = [normalizer.denormalize(layer(inputs)) for layer in layers]
        normalizer.update(normalizer.batch_moments(100 * update + 50 * samples(update, 20, *shape)))
        for layer, values in zip(layers, before, strict=True):
            torch.testing.assert_close(normalizer.denormalize(layer(inputs)), values, rtol=1e-4, atol=1e-3)
            assert layer.weight.requires_grad
            assert layer.weight.dtype == torch.float32


def test_rewards_are_normalised_by_all_seen_so_far_and_constant_ones_stay_finite():
    normalizer = RewardNormalizer(center=True, epsilon=0.25)
    assert normalizer.normalize(torch.tensor([2.0])).tolist() == pytest.approx([2.0 / math.sqrt(1.25)])
    normalizer.update(normalizer.batch_moments(torch.tensor([3.0, 3.0])))
    assert normalizer.normalize(torch.tensor([3.0, 4.0])).tolist() == [0.0, 2.0]
    again = RewardNormalizer(center=True, epsilon=0.25)
    again.load_state_dict(normalizer.state_dict())
    assert again.normalize(torch.tensor([4.0])).tolist() == [2.0]


def test_rewards_are_scaled_and_keep_their_signs_and_only_centred_ones_lose_their_mean():
    for rewards, seen in (([1.0] * 4, [1.0] * 4), ([0.0, 0.0, 0.0, 20.0], [0.0, 0.0, 0.0, 2.0])):
        normalizer = RewardNormalizer()
        normalizer.update(normalizer.batch_moments(torch.tensor(rewards)))
        assert normalizer.normalize(torch.tensor(rewards)).tolist() == pytest.approx(seen, rel=1e-3)
        assert normalizer.denormalize(normalizer.normalize(torch.tensor(rewards))).tolist() == pytest.approx(rewards)
    centred = RewardNormalizer(center=True)
    centred.update(centred.batch_moments(torch.tensor([1.0, 3.0])))
    assert centred.normalize(torch.tensor([1.0, 3.0])).tolist() == pytest.approx([-1.0, 1.0], rel=1e-3)
