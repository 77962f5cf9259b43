import pytest
import torch

from marl.networks.images import describe_reading, is_convolved, resolve_convolutions
from marl.networks.torso import ImageEncoder, Torso, kept_bytes, prepare_input
from marl.specs import ArraySpec

MAP = ArraySpec(shape=(13, 13, 5))
PIXELS = ArraySpec(shape=(84, 84, 3), dtype=torch.uint8)
TINY = ArraySpec(shape=(4, 4, 3), dtype=torch.uint8)
VECTOR = ArraySpec(shape=(6,))
CHOICES = ("auto", "yes", "no")


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (MAP, (False, True, False)),
        (PIXELS, (True, True, False)),
        (ArraySpec(shape=(36, 36, 1)), (True, True, False)),
        (ArraySpec(shape=(35, 36, 1)), (False, True, False)),
        (TINY, (False, False, False)),
        (VECTOR, (False, False, False)),
    ],
)
def test_convolutions_begin_at_36_pixels_a_side_unless_asked_for_or_forbidden(spec, expected):
    assert tuple(is_convolved(spec, choice) for choice in CHOICES) == expected


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("spec", [MAP, PIXELS])
def test_torsos_and_their_inputs_agree_on_the_choice(spec, choice):
    torso = Torso([spec], hidden_sizes=(8,), convolutions=choice)
    assert isinstance(torso.encoders[0], ImageEncoder) == is_convolved(spec, choice)
    raw = torch.zeros((2, 1, *spec.shape), dtype=spec.dtype)
    assert torso.features([prepare_input(spec, raw, normalize=False, convolutions=choice)]).shape == (2, 1, 8)


def test_a_run_keeps_the_choice_that_auto_came_to():
    assert resolve_convolutions("auto", [MAP, VECTOR]) == "no"
    assert resolve_convolutions("auto", [PIXELS]) == "yes"
    assert resolve_convolutions("auto", [PIXELS, MAP]) == "auto"
    assert resolve_convolutions("auto", [VECTOR]) == "auto"
    assert resolve_convolutions("yes", [MAP]) == "yes"


def test_one_line_says_which_was_taken_and_how_to_change_it():
    assert describe_reading("auto", [VECTOR, TINY]) is None
    assert describe_reading("auto", [MAP]) == (
        "images of 13×13×5 are read by plain layers (--algorithm.convolutions yes for convolutions)"
    )
    assert describe_reading("yes", [MAP, MAP]) == (
        "images of 13×13×5 are read with convolutions (--algorithm.convolutions no for plain layers)"
    )
    line = describe_reading("auto", [ArraySpec(shape=(12, 84, 84), dtype=torch.uint8)])
    assert "12×84×84 looks like (channels, height, width)" in line


@pytest.mark.parametrize("spec", [MAP, PIXELS])
def test_what_convolutions_keep_is_counted(spec):
    sizes = []
    encoder = ImageEncoder(spec, "relu")
    for layer in encoder._layers:
        layer.register_forward_hook(lambda *args: sizes.append(args[-1].numel()))
    encoder(torch.zeros((1, *spec.shape), dtype=spec.dtype))
    assert kept_bytes(spec, "yes") == 4 * (spec.size + sum(sizes))
    assert kept_bytes(spec, "no") == 0
