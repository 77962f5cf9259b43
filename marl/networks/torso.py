"""Torsos and heads, made from specs, with orthogonal initialisation.

A network reads one or several inputs (an observation, the global state) of the agents of one group. Its first
layer is the sum of one linear map an input and of one bias vector an agent: the same numbers as a linear layer
over the concatenation of all inputs and a one-hot agent id, without building that, and with the state's part
computed once for all agents.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from marl.networks.images import LARGE_IMAGE, Convolutions, is_convolved
from marl.specs import ArraySpec

Activation = Literal["tanh", "relu"]
LayerT = TypeVar("LayerT", nn.Linear, nn.Conv2d)


class _Tanh(torch.autograd.Function):
    """tanh x = 2 σ(2x) - 1: torch's logistic function is several times faster on CPUs than its tangent."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = torch.sigmoid(x + x).mul_(2.0).sub_(1.0)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        result: Tensor = torch.ops.aten.tanh_backward(gradient, y)
        return result


def tanh(x: Tensor) -> Tensor:
    """The hyperbolic tangent of (...) floats, exact to 2e-7 in float32 (absolute), as an activation needs it."""
    if not x.is_cpu:
        return torch.tanh(x)
    y: Tensor = _Tanh.apply(x)  # type: ignore[no-untyped-call]
    return y


_ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {"tanh": tanh, "relu": functional.relu}
_GAINS: dict[Activation, float] = {"tanh": 5.0 / 3.0, "relu": math.sqrt(2.0)}


def orthogonal(layer: LayerT, gain: float) -> LayerT:
    """Initialises a layer with orthogonal weights of the given gain and zero biases (Saxe et al. 2014)."""
    nn.init.orthogonal_(layer.weight, gain)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def prepare_input(spec: ArraySpec, raw: Tensor, *, normalize: bool, convolutions: Convolutions = "auto") -> Tensor:
    """Prepares an input for a torso: once for all passes of an update, since no parameter takes part.

    Args:
        spec: of the input.
        raw: (..., *shape).
        normalize: whether vectors are layer-normalised (Ba et al. 2016), without learned scales.
        convolutions: which images stay images, as convolutions read them.

    Returns:
        Images that are convolved as they are; everything else flattened to (..., size), in the default floating dtype
        unless it has one already. Bytes are scaled to [0, 1].
    """
    if is_convolved(spec, convolutions):
        return raw
    leading = raw.shape[: raw.dim() - len(spec.shape)]
    flat = raw.reshape(*leading, spec.size)
    if not flat.is_floating_point():
        flat = flat.to(torch.get_default_dtype())
        if raw.dtype == torch.uint8:
            flat = flat / 255.0
    return functional.layer_norm(flat, flat.shape[-1:]) if normalize and spec.size > 1 else flat


def _convolutions(spec: ArraySpec) -> tuple[tuple[int, int, int, int], ...]:
    """Filters, side of the kernel, stride and padding of each convolution of an image."""
    if min(spec.shape[:2]) >= LARGE_IMAGE:
        return ((32, 8, 4, 0), (64, 4, 2, 0), (64, 3, 1, 0))
    return ((32, 3, 1, 1), (32, 3, 1, 1))


def _convolved_sizes(spec: ArraySpec) -> list[int]:
    """Numbers that each convolution makes of an image."""
    height, width, _ = spec.shape
    sizes = []
    for filters, kernel, stride, padding in _convolutions(spec):
        height = (height + 2 * padding - kernel) // stride + 1
        width = (width + 2 * padding - kernel) // stride + 1
        sizes.append(filters * height * width)
    return sizes


def kept_bytes(spec: ArraySpec, convolutions: Convolutions) -> int:
    """Bytes that a torso keeps of one image between its forward and its backward pass, in float32; 0 of other inputs.

    The image itself, where it must be converted or copied, and what each convolution makes of it.
    """
    return 4 * (spec.size + sum(_convolved_sizes(spec))) if is_convolved(spec, convolutions) else 0


class ImageEncoder(nn.Module):
    """Convolutions over (height, width, channels) images, flattened.

    Images with sides of 36 pixels or more get the three layers of Mnih et al. (2015); smaller ones, such as
    boards and local maps, two layers of 3×3 filters that keep the size. uint8 pixels are scaled to [0, 1].
    """

    def __init__(self, spec: ArraySpec, activation: Activation) -> None:
        super().__init__()
        channels = spec.shape[2]
        layers: list[nn.Conv2d] = []
        for filters, kernel, stride, padding in _convolutions(spec):
            layers.append(nn.Conv2d(channels, filters, kernel, stride, padding))
            orthogonal(layers[-1], _GAINS[activation])
            channels = filters
        self._layers = nn.ModuleList(layers)
        self._activation = _ACTIVATIONS[activation]
        self._scale = 1.0 / 255.0 if spec.dtype == torch.uint8 else 1.0
        self.size = _convolved_sizes(spec)[-1]

    def forward(self, images: Tensor) -> Tensor:
        """Encodes (..., H, W, C) images of any dtype as (..., size) features."""
        leading = images.shape[:-3]
        x = images.reshape(-1, *images.shape[-3:]).permute(0, 3, 1, 2)
        x = x.to(next(self.parameters()).dtype)
        if self._scale != 1.0:
            x = x * self._scale
        for layer in self._layers:
            x = self._activation(layer(x))
        return x.reshape(*leading, self.size)


def _narrow_linear(x: Tensor, layer: nn.Linear) -> Tensor:
    """A linear layer whose products are of bfloat16 numbers; the processor adds them up in float32."""
    product = functional.linear(x.to(torch.bfloat16), layer.weight.to(torch.bfloat16))
    return product.to(x.dtype) + layer.bias


class Torso(nn.Module):
    """Several inputs of a group's agents, through hidden layers and optionally a GRU, to features.

    Args:
        inputs: specs of the inputs, in the order in which ``forward`` takes them.
        num_agents: agents of the group; more than one get a bias vector each, their id.
        hidden_sizes: widths of the hidden layers; at least one.
        activation: after each hidden layer.
        layer_norm: normalise each hidden layer's activations (Ba et al. 2016), without learned scales: the next
            layer's weights serve as well.
        recurrent: add a GRU as wide as the last hidden layer.
        convolutions: which images are read with convolutions; others come as vectors, as from ``prepare_input``.
        bfloat16: multiply matrices between hidden layers in bfloat16, which some processors do faster. Inputs,
            outputs, sums and parameters keep their precision.
    """

    def __init__(
        self,
        inputs: Sequence[ArraySpec],
        *,
        num_agents: int = 1,
        hidden_sizes: Sequence[int] = (64, 64),
        activation: Activation = "tanh",
        layer_norm: bool = True,
        recurrent: bool = False,
        convolutions: Convolutions = "auto",
        bfloat16: bool = False,
    ) -> None:
        super().__init__()
        if not inputs or not hidden_sizes:
            raise ValueError("a torso needs at least one input and one hidden layer")
        gain = _GAINS[activation]
        self._activation = _ACTIVATIONS[activation]
        self._layer_norm = layer_norm
        self._bfloat16 = bfloat16
        self.encoders = nn.ModuleList(
            ImageEncoder(spec, activation) if is_convolved(spec, convolutions) else nn.Identity() for spec in inputs
        )
        sizes = [
            encoder.size if isinstance(encoder, ImageEncoder) else spec.size
            for encoder, spec in zip(self.encoders, inputs, strict=True)
        ]
        # One orthogonal matrix over all inputs and the one-hot id, cut into its columns.
        ids = num_agents if num_agents > 1 else 0
        joint = torch.empty(hidden_sizes[0], sum(sizes) + ids)
        nn.init.orthogonal_(joint, gain)
        columns = joint.split([*sizes, ids], dim=1)
        self.first_weights = nn.ParameterList(nn.Parameter(part.clone()) for part in columns[: len(sizes)])
        self.first_bias = nn.Parameter(columns[-1].t().clone() if ids else torch.zeros(1, hidden_sizes[0]))
        self.hidden = nn.ModuleList(orthogonal(nn.Linear(a, b), gain) for a, b in itertools.pairwise(hidden_sizes))
        self.size = hidden_sizes[-1]
        self.gru: nn.GRUCell | None = None
        if recurrent:
            self.gru = nn.GRUCell(self.size, self.size)
            for weight in (self.gru.weight_ih, self.gru.weight_hh):
                for gate in weight.data.split(self.size):
                    nn.init.orthogonal_(gate)
            nn.init.zeros_(self.gru.bias_ih)
            nn.init.zeros_(self.gru.bias_hh)

    def features(self, inputs: Sequence[Tensor], agents: Tensor | None = None) -> Tensor:
        """Features before the GRU.

        Args:
            inputs: from ``prepare_input``, (..., A, *shape) each; what all agents share has a 1 in place of A.
            agents: for flat batches, whose tensors are (B, *shape): which agent each row is, (B,) int64.

        Returns:
            (..., A, size) or (B, size).
        """
        total: Tensor = self.first_bias
        if total.shape[0] == 1:
            total = total[0]
        elif agents is not None:
            total = total[agents]
        for encoder, weight, prepared in zip(self.encoders, self.first_weights, inputs, strict=True):
            total = total + functional.linear(encoder(prepared), weight)
        x = self._finish(total)
        for layer in self.hidden:
            assert isinstance(layer, nn.Linear)
            x = self._finish(_narrow_linear(x, layer) if self._bfloat16 else layer(x))
        return x

    def _finish(self, x: Tensor) -> Tensor:
        x = self._activation(x)
        return functional.layer_norm(x, x.shape[-1:]) if self._layer_norm else x

    def initial_state(self, *shape: int) -> Tensor:
        """Recurrent state at the beginning of an episode: zeros of (*shape, size)."""
        return self.first_bias.new_zeros((*shape, self.size))

    def step(self, features: Tensor, state: Tensor, first: Tensor) -> Tensor:
        """One step of the GRU; the new state is also its output.

        Args:
            features: (..., size).
            state: (..., size), from the step before.
            first: (...) bool, True where an episode begins: there the state is forgotten.
        """
        assert self.gru is not None
        state = state * (~first).unsqueeze(-1).to(state.dtype)
        size = state.shape[-1]
        new: Tensor = self.gru(features.reshape(-1, size), state.reshape(-1, size))
        return new.reshape(state.shape)

    def unroll(self, features: Tensor, state: Tensor, first: Tensor) -> Tensor:
        """The GRU over whole sequences: (L, ..., size) features and (L, ...) first to (L, ..., size) outputs."""
        outputs: list[Tensor] = []
        for row, begins in zip(features, first, strict=True):
            state = self.step(row, state, begins)
            outputs.append(state)
        return torch.stack(outputs)


class Head(nn.Module):
    """The last linear layer; small gains make first policies nearly uniform (Andrychowicz et al. 2021)."""

    def __init__(self, size: int, outputs: int, gain: float) -> None:
        super().__init__()
        self.linear = orthogonal(nn.Linear(size, outputs), gain)

    def forward(self, features: Tensor) -> Tensor:
        """(..., size) to (..., outputs)."""
        result: Tensor = self.linear(features)
        return result
