"""Checks of tensors' shapes for pure functions."""

from __future__ import annotations

from torch import Tensor


def check_equal_shapes(**tensors: Tensor | None) -> None:
    """Raises ValueError, naming the first that differs, unless all tensors have one shape; None is left out."""
    present = [(name, tensor) for name, tensor in tensors.items() if tensor is not None]
    first_name, first = present[0]
    for name, tensor in present[1:]:
        if tensor.shape != first.shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, {first_name} has {tuple(first.shape)}")
