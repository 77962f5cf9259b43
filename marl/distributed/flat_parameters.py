"""Parameters and their gradients in one flat buffer each, so that one all-reduce serves a whole update."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from marl.core import Communicator

_ALIGNMENT: Final = 64
"""Bytes: every parameter begins on a cache line, as it would if it were allocated by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One named part of FlatParameters."""

    slice: slice
    """Its place in the flat tensors, padding included."""
    parameters: Tensor
    """View of the flat parameters."""
    gradients: Tensor
    """View of the flat gradients."""


class FlatParameters:
    """One flat buffer of parameters and one of gradients, of which every ``p.data`` and ``p.grad`` is a view.

    So ranks meet in one in-place all-reduce, norms and optimizers can work on whole segments, and no gradient is
    ever copied. Parameters begin on 64-byte boundaries; the padding in between is zero and stays zero under any
    optimizer that moves a parameter only by its gradient and its own value.

    The gradient buffer ends in a tail for bookkeeping: sample counts, a non-finite flag, a stop flag. It has the
    dtype of the gradients, so in float32 a count is exact up to 2²⁴ = 16,777,216 summed over ranks; count in
    larger units where an update sees more.

    Gradients are accumulated: call ``zero_gradients`` before ``backward``, and never ``optimizer.zero_grad()``,
    whose default replaces the views by None. ``check_views`` finds this; it runs before the first all-reduce and at
    every ``zero_gradients``, so that the collective itself costs nothing more than its bytes.

    Args:
        segments: parameters by segment name, for instance one for each group's actor and critic. Their order is
            the order in the buffers and must be the same on all ranks. One dtype, one device, none twice.
        tail: number of floats after the gradients.
    """

    def __init__(self, segments: Mapping[str, Iterable[nn.Parameter]], *, tail: int = 0) -> None:
        named = {name: list(parameters) for name, parameters in segments.items()}
        everything = [parameter for parameters in named.values() for parameter in parameters]
        if not everything:
            raise ValueError("there are no parameters to make flat")
        kinds = {(parameter.dtype, parameter.device) for parameter in everything}
        if len(kinds) > 1:
            raise ValueError(f"flat parameters need one dtype and one device, got {sorted(map(str, kinds))}")
        if len({id(parameter) for parameter in everything}) < len(everything):
            raise ValueError("a parameter is listed twice; put modules that share parameters into one segment")
        dtype, device = kinds.pop()
        unit = max(1, _ALIGNMENT // dtype.itemsize)
        starts: list[int] = []
        slices: dict[str, slice] = {}
        end = 0
        for name, parameters in named.items():
            first = end
            for parameter in parameters:
                starts.append(end)
                end += -(-parameter.numel() // unit) * unit
            slices[name] = slice(first, end)

        self.parameters: Tensor = torch.zeros(end, dtype=dtype, device=device)
        """(N,) all parameters, padding included."""
        self._buffer = torch.zeros(end + tail, dtype=dtype, device=device)
        self.gradients: Tensor = self._buffer[:end]
        """(N,) all gradients, without the tail."""
        self.tail: Tensor = self._buffer[end:]
        """(tail,) bookkeeping that travels with the gradients."""
        self._views: list[tuple[nn.Parameter, Tensor, int]] = []
        for parameter, start in zip(everything, starts, strict=True):
            data = self.parameters[start : start + parameter.numel()].view(parameter.shape)
            data.copy_(parameter.detach())
            gradient = self.gradients[start : start + parameter.numel()].view(parameter.shape)
            parameter.data = data
            self._adopt(parameter, gradient)
        self._segments = {
            name: Segment(slice=place, parameters=self.parameters[place], gradients=self.gradients[place])
            for name, place in slices.items()
        }
        self._flat: dict[str | None, nn.Parameter] = {}
        self._checked = False

    def _adopt(self, parameter: nn.Parameter, gradient: Tensor) -> None:
        parameter.grad = gradient
        # The gradient object is kept, so that one identity test tells whether anybody replaced it.
        self._views.append((parameter, gradient, parameter.data_ptr()))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the segments, in their order."""
        return tuple(self._segments)

    def segment(self, name: str) -> Segment:
        """One segment's place and views; KeyError for an unknown name."""
        return self._segments[name]

    def flat_parameter(self, name: str | None = None) -> nn.Parameter:
        """One segment (or everything) as a single (N,) parameter with its gradient, for optimizers.

        An optimizer that treats all elements alike (Adam, SGD, RMSprop) computes on it what it would compute on
        the single parameters, in one pass. The same object on every call.
        """
        if name not in self._flat:
            data = self.parameters if name is None else self._segments[name].parameters
            parameter = nn.Parameter(data)
            self._adopt(parameter, self.gradients if name is None else self._segments[name].gradients)
            self._flat[name] = parameter
        return self._flat[name]

    def check_views(self) -> None:
        """Raises RuntimeError where somebody replaced a parameter's data or gradient instead of writing into it."""
        for parameter, gradient, pointer in self._views:
            if parameter.grad is not gradient:
                raise RuntimeError(
                    f"the gradient of a parameter of shape {tuple(parameter.shape)} is no longer a view of the flat "
                    "buffer; clear gradients with zero_gradients(), not with optimizer.zero_grad()"
                )
            if parameter.data_ptr() != pointer:
                raise RuntimeError(
                    f"a parameter of shape {tuple(parameter.shape)} is no longer a view of the flat buffer; "
                    "write into it with copy_ or load_state_dict, and move modules to devices before making them flat"
                )

    def zero_gradients(self) -> None:
        """Clears all gradients and the tail; RuntimeError where gradients are no longer views (``check_views``)."""
        self.check_views()
        self._buffer.zero_()

    def all_reduce(self, communicator: Communicator) -> None:
        """Sums gradients and tail over ranks: one collective, in place."""
        if not self._checked:
            self.check_views()
            self._checked = True
        communicator.all_reduce(self._buffer)

    def broadcast(self, communicator: Communicator, root: int = 0) -> None:
        """Gives every rank the root's parameters."""
        self.check_views()
        communicator.broadcast(self.parameters, root)
