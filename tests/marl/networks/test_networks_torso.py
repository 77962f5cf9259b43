"""Torsos against plain layers over concatenated inputs, and a GRU that forgets where it must."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from marl.networks.images import is_convolved
from marl.networks.torso import Head, ImageEncoder, Torso, orthogonal, prepare_input
from marl.specs import ArraySpec

VECTOR, STATE = ArraySpec(shape=(6,)), ArraySpec(shape=(4, 2))
IMAGE, BOARD = ArraySpec(shape=(40, 36, 3), dtype=torch.uint8), ArraySpec(shape=(5, 7, 2))


def inputs(*shapes):
    torch.manual_seed(0)
    return [torch.randn(shape) for shape in shapes]


def test_products_of_bfloat16_are_those_of_float32_to_three_digits():
    torsos = [Torso([VECTOR], hidden_sizes=(64, 64), layer_norm=False, bfloat16=narrow) for narrow in (False, True)]
    torsos[1].load_state_dict(torsos[0].state_dict())
    inputs = torch.randn((200, 1, *VECTOR.shape), generator=torch.Generator().manual_seed(0))
    exact, narrow = (torso.features([inputs]) for torso in torsos)
    assert narrow.dtype == torch.float32
    assert not torch.equal(narrow, exact)
    torch.testing.assert_close(narrow, exact, rtol=0.0, atol=0.02)
    for features in (exact, narrow):
        features.square().sum().backward()
    for one, other in zip(*(torso.parameters() for torso in torsos), strict=True):
        assert other.grad.dtype == torch.float32
        assert (other.grad - one.grad).norm() < 0.02 * one.grad.norm()


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("num_agents", [1, 3])
def test_the_first_layer_is_a_linear_layer_over_all_inputs_and_a_one_hot_id(num_agents, layer_norm):
    torso = Torso([STATE, VECTOR], num_agents=num_agents, hidden_sizes=(16,), layer_norm=layer_norm)
    with torch.no_grad():
        torso.first_bias.add_(torch.randn_like(torso.first_bias))
    state, observations = inputs((7, 5, 1, 8), (7, 5, num_agents, 6))
    weight = torch.cat([*torso.first_weights, torso.first_bias.t()], dim=1)
    ids = torch.eye(num_agents).expand(7, 5, num_agents, num_agents)
    joint = torch.cat([state.expand(7, 5, num_agents, 8), observations, ids], dim=-1)
    expected = torch.tanh(nn.functional.linear(joint, weight))
    if layer_norm:
        expected = functional.layer_norm(expected, (16,))
    actual = torso.features([state, observations])
    assert actual.shape == (7, 5, num_agents, 16)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("num_agents", [1, 3])
def test_flat_batches_give_the_same_features(num_agents):
    torso = Torso([STATE, VECTOR], num_agents=num_agents, hidden_sizes=(16, 8))
    state, observations = inputs((7, 1, 8), (7, num_agents, 6))
    together = torso.features([state, observations])
    rows = torch.arange(7).repeat_interleave(num_agents)
    agents = torch.arange(num_agents).repeat(7)
    flat = torso.features([state[rows, 0], observations[rows, agents]], agents)
    torch.testing.assert_close(flat.view(7, num_agents, 8), together)
    nothing = torso.features([state[:0, 0], observations[:0, 0]], agents[:0])
    assert nothing.shape == (0, 8)


def test_a_critic_of_the_state_alone_needs_no_ids_even_where_rows_name_agents():
    torso = Torso([STATE], hidden_sizes=(8,))
    (state,) = inputs((5, 8))
    torch.testing.assert_close(torso.features([state], torch.tensor([0, 1, 2, 3, 4])), torso.features([state]))


def test_gradients_reach_every_parameter_and_those_of_idle_agents_are_zero():
    torso = Torso([VECTOR], num_agents=3, hidden_sizes=(16, 16), recurrent=True)
    (observations,) = inputs((4, 6))
    features = torso.features([observations], torch.tensor([0, 2, 0, 2]))
    torso.step(features, torch.ones(4, 16), torch.zeros(4, dtype=torch.bool)).square().sum().backward()
    for name, parameter in torso.named_parameters():
        assert parameter.grad.abs().sum() > 0, name
    assert torso.first_bias.grad[1].abs().sum() == 0


@pytest.mark.parametrize(("activation", "gain"), [("tanh", 5 / 3), ("relu", 2**0.5)])
def test_weights_begin_orthogonal(activation, gain):
    torso = Torso([STATE, VECTOR], num_agents=2, hidden_sizes=(32, 8), activation=activation, recurrent=True)
    joint = torch.cat([*torso.first_weights, torso.first_bias.t()], dim=1)
    torch.testing.assert_close(joint.t() @ joint, gain**2 * torch.eye(16), atol=1e-5, rtol=0)
    hidden = torso.hidden[0]
    torch.testing.assert_close(hidden.weight @ hidden.weight.t(), gain**2 * torch.eye(8), atol=1e-5, rtol=0)
    assert hidden.bias.abs().sum() == 0
    for gate in torso.gru.weight_hh.split(8):
        torch.testing.assert_close(gate @ gate.t(), torch.eye(8), atol=1e-5, rtol=0)
    head = Head(8, 3, 0.01)
    torch.testing.assert_close(head.linear.weight @ head.linear.weight.t(), 1e-4 * torch.eye(3), atol=1e-7, rtol=0)
    assert orthogonal(nn.Linear(3, 3, bias=False), 1.0).bias is None


def test_unrolling_is_stepping_and_the_first_row_of_an_episode_forgets():
    torso = Torso([VECTOR], hidden_sizes=(8,), recurrent=True)
    features, state = inputs((9, 4, 2, 8), (4, 2, 8))
    first = torch.rand(9, 4, 1).expand(9, 4, 2) < 0.3
    first[5] = True
    outputs = torso.unroll(features, state, first)
    expected, before = [], state
    for row in range(9):
        before = torso.step(features[row], before, first[row])
        expected.append(before)
    torch.testing.assert_close(outputs, torch.stack(expected))
    # After row 5 nothing of what came before is left.
    fresh = torso.unroll(features[5:], torso.initial_state(4, 2), torch.zeros_like(first[5:]) | first[5:])
    torch.testing.assert_close(outputs[5:], fresh)
    assert not torch.allclose(outputs[4], torso.unroll(features[4:5], torso.initial_state(4, 2), first[4:5])[0])


def test_no_gradient_crosses_the_beginning_of_an_episode():
    torso = Torso([VECTOR], hidden_sizes=(8,), recurrent=True)
    features, state = inputs((3, 1, 8), (1, 8))
    features.requires_grad_()
    torso.unroll(features, state, torch.tensor([[False], [False], [True]]))[-1].sum().backward()
    assert features.grad[:2].abs().sum() == 0
    assert features.grad[2].abs().sum() > 0


def test_a_gru_takes_no_copies_at_all():
    torso = Torso([VECTOR], num_agents=3, hidden_sizes=(8,), recurrent=True)
    empty = torso.step(torch.zeros(0, 3, 8), torso.initial_state(0, 3), torch.zeros(0, 3, dtype=torch.bool))
    assert empty.shape == (0, 3, 8)


@pytest.mark.parametrize("spec", [IMAGE, BOARD], ids=["pixels", "board"])
def test_images_go_through_convolutions(spec):
    assert is_convolved(spec, "yes")
    encoder = ImageEncoder(spec, "relu")
    torch.manual_seed(1)
    bright = 256 if spec.dtype == torch.uint8 else 2
    images = torch.randint(0, bright, (3, 2, *spec.shape)).to(spec.dtype)
    features = encoder(images)
    assert features.shape == (3, 2, encoder.size)
    torch.testing.assert_close(features[1, 1], encoder(images[1, 1]))
    assert encoder(images[:0]).shape == (0, 2, encoder.size)
    torso = Torso([spec, VECTOR], num_agents=2, hidden_sizes=(8,), convolutions="yes")
    vectors = torch.randn(3, 2, 6)
    prepared = prepare_input(spec, images, normalize=True, convolutions="yes")
    assert prepared.data_ptr() == images.data_ptr()
    together = torso.features([prepared, vectors])
    flat = torso.features([images.flatten(0, 1), vectors.flatten(0, 1)], torch.tensor([0, 1] * 3))
    torch.testing.assert_close(together.flatten(0, 1), flat, atol=1e-5, rtol=1e-5)


def test_without_convolutions_an_image_is_a_vector():
    torso = Torso([IMAGE], num_agents=2, convolutions="no")
    assert len(torso.first_weights) == 1
    assert torso.first_weights[0].shape == (64, IMAGE.size)
    images = torch.randint(0, 256, (3, 2, *IMAGE.shape), dtype=torch.uint8)
    prepared = prepare_input(IMAGE, images, normalize=False, convolutions="no")
    torch.testing.assert_close(prepared, images.flatten(2).float() / 255)
    assert torso.features([prepared]).shape == (3, 2, 64)


def test_pixels_are_scaled_to_one():
    encoder = ImageEncoder(IMAGE, "relu")
    as_floats = ImageEncoder(ArraySpec(shape=IMAGE.shape), "relu")
    as_floats.load_state_dict(encoder.state_dict())
    images = torch.randint(0, 256, (2, *IMAGE.shape), dtype=torch.uint8)
    torch.testing.assert_close(encoder(images), as_floats(images.float() / 255))


def test_inputs_are_flattened_normalised_and_of_a_floating_dtype():
    tiny = ArraySpec(shape=(3, 3, 2), dtype=torch.uint8)
    assert not is_convolved(tiny, "yes")
    raw = torch.randint(0, 256, (4, 5, 3, 3, 2), dtype=torch.uint8)
    flat = prepare_input(tiny, raw, normalize=False)
    torch.testing.assert_close(flat, raw.flatten(2).float() / 255)
    whole = ArraySpec(shape=(), dtype=torch.int64)
    assert prepare_input(whole, torch.tensor([3, 7]), normalize=True).tolist() == [[3.0], [7.0]]
    normalized = prepare_input(STATE, torch.randn(6, 4, 2), normalize=True)
    assert normalized.shape == (6, 8)
    torch.testing.assert_close(normalized.mean(-1), torch.zeros(6), atol=1e-6, rtol=0)
    torch.testing.assert_close(normalized.square().mean(-1), torch.ones(6), atol=1e-3, rtol=0)
    assert prepare_input(VECTOR, torch.zeros(0, 3, 6), normalize=True).shape == (0, 3, 6)


@pytest.mark.parametrize(("specs", "sizes"), [([], (8,)), ([VECTOR], ())])
def test_a_torso_without_inputs_or_layers_is_refused(specs, sizes):
    with pytest.raises(ValueError, match="at least one"):
        Torso(specs, hidden_sizes=sizes)
