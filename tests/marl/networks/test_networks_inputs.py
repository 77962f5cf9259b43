"""Inputs as networks read them: which normalisation sees what."""

import pytest
import torch

from marl.networks.inputs import make_reader
from marl.specs import ArraySpec

VECTOR = ArraySpec(shape=(3,))
SMALL, LARGE = torch.tensor([0.1, 0.2, 0.4]), torch.tensor([1.0, 2.0, 4.0])


def trained(spec, samples):
    reader = make_reader(spec, "running")
    reader.normalizer.update(reader.batch_moments(samples))
    return reader


@pytest.mark.parametrize("normalization", ["none", "running"])
def test_scale_is_seen(normalization):
    reader = make_reader(VECTOR, normalization)
    assert not torch.allclose(reader.read(SMALL), reader.read(LARGE))


def test_only_layer_normalisation_deletes_a_vectors_mean_and_scale():
    reader = make_reader(VECTOR, "layer")
    assert torch.allclose(reader.read(SMALL), reader.read(7.0 + LARGE), atol=1e-2)


def test_running_moments_bring_elements_of_all_scales_to_one():
    samples = torch.randn(1000, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1e-3, 1.0, 1e5])
    seen = trained(VECTOR, samples).read(samples)
    assert seen.std(0, correction=0).tolist() == pytest.approx([1.0] * 3, rel=0.01)


def test_whole_numbers_are_normalised_as_numbers_and_bytes_after_their_scaling():
    whole = trained(ArraySpec(shape=(2,), dtype=torch.int64), torch.tensor([[0, 10], [4, 30]]))
    assert whole.read(torch.tensor([[4, 10]])).tolist() == [pytest.approx([1.0, -1.0])]
    pixels = trained(ArraySpec(shape=(1,), dtype=torch.uint8), torch.tensor([[0], [255]], dtype=torch.uint8))
    assert pixels.normalizer.mean.tolist() == pytest.approx([0.5])


@pytest.mark.parametrize("convolutions", ["yes", "no"])
def test_images_are_only_scaled(convolutions):
    spec = ArraySpec(shape=(6, 6, 3), dtype=torch.uint8)
    reader = make_reader(spec, "running", convolutions=convolutions)
    image = torch.full((1, 6, 6, 3), 51, dtype=torch.uint8)
    assert reader.normalizer is None
    assert torch.equal(reader.read(image), image if convolutions == "yes" else torch.full((1, 108), 0.2))
