"""Packed records: the layout of an item's fields, and records that are being written."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from marl.replay.items import Items, TransitionItems
from marl.specs import ArraySpec, EnvironmentSpec
from marl.types import Array, Integers


class Layout:
    """Places of the fields of one record.

    Args:
        fields: shape and dtype of every field.

    Attributes:
        payload_bytes: bytes that the fields need.
        record_bytes: bytes that a record takes: the same, and up to 7 to align the next record.
    """

    def __init__(self, fields: Mapping[str, ArraySpec]) -> None:
        self.fields = dict(fields)
        self._places: dict[str, tuple[int, int]] = {}
        offset = 0
        # Wide numbers first: then every field is aligned without gaps.
        for name in sorted(fields, key=lambda name: -fields[name].dtype.itemsize):
            size = fields[name].size * fields[name].dtype.itemsize
            self._places[name] = (offset, offset + size)
            offset += size
        self.payload_bytes = offset
        self.record_bytes = -(-offset // 8) * 8

    @property
    def words(self) -> int:
        """Length of a record in int64 words."""
        return self.record_bytes // 8

    def tensors(self, records: Tensor) -> dict[str, Tensor]:
        """Typed views (..., *field shape) of records (..., words) int64."""
        octets = records.view(torch.uint8)
        views = {}
        for name, (start, stop) in self._places.items():
            spec = self.fields[name]
            views[name] = octets[..., start:stop].view(spec.dtype).unflatten(-1, spec.shape or (1,))
            if not spec.shape:
                views[name] = views[name].squeeze(-1)
        return views


class Staging:
    """Records that are being written, and their fields.

    Args:
        layout: places of the fields.
        shape: leading dimensions.

    Attributes:
        records: (*shape, words) int64.
        tensors: fields (*shape, *field shape), which share memory with the records.
        arrays: the same as numpy arrays.
    """

    def __init__(self, layout: Layout, shape: tuple[int, ...]) -> None:
        self.records: Integers = np.zeros((*shape, layout.words), np.int64)
        self.tensors = layout.tensors(torch.from_numpy(self.records))
        self.arrays: dict[str, Array] = {name: tensor.numpy() for name, tensor in self.tensors.items()}

    def write(self, values: Mapping[str, Tensor]) -> None:
        """Writes some or all fields at once, each (*shape, *field shape)."""
        # One call for all fields: the cost of a small copy is that of calling it.
        torch._foreach_copy_([self.tensors[name] for name in values], list(values.values()))


def item_layout(spec: EnvironmentSpec, items: Items) -> Layout:
    """The record of one item: fields ``GROUP/NAME`` for the groups, plain names for joint ones."""
    if isinstance(items, TransitionItems):
        fields = _step_fields(spec, (), "") | _step_fields(spec, (), "next_") | _outcome_fields(spec, ())
    else:
        steps = (items.length,)
        flags = {name: ArraySpec(shape=steps, dtype=torch.bool) for name in ("valid", "learn")}
        fields = _step_fields(spec, (items.length + 1,), "") | _outcome_fields(spec, steps) | flags
    return Layout(fields)


def _step_fields(spec: EnvironmentSpec, time: tuple[int, ...], prefix: str) -> dict[str, ArraySpec]:
    fields = {}
    for group in spec.groups:
        rows, name = (*time, group.size), f"{group.name}/{prefix}"
        observation = group.observation
        fields[f"{name}observations"] = ArraySpec(shape=(*rows, *observation.shape), dtype=observation.dtype)
        fields[f"{name}active"] = ArraySpec(shape=rows, dtype=torch.bool)
        if group.masked:
            fields[f"{name}action_masks"] = ArraySpec(shape=(*rows, group.action.mask_size), dtype=torch.bool)
    if spec.state is not None:
        fields[f"{prefix}state"] = ArraySpec(shape=(*time, *spec.state.shape), dtype=spec.state.dtype)
    return fields


def _outcome_fields(spec: EnvironmentSpec, time: tuple[int, ...]) -> dict[str, ArraySpec]:
    fields = {}
    for group in spec.groups:
        rows, action = (*time, group.size), group.action.array
        fields[f"{group.name}/actions"] = ArraySpec(shape=(*rows, *action.shape), dtype=action.dtype)
        fields[f"{group.name}/rewards"] = ArraySpec(shape=rows)
        fields[f"{group.name}/discounts"] = ArraySpec(shape=rows)
    fields["discounts"] = ArraySpec(shape=time)
    return fields


def as_array(values: Array | Tensor) -> Array:
    """A numpy view of a tensor on the CPU, or a copy of one elsewhere."""
    if isinstance(values, Tensor):
        array: Array = values.numpy() if values.is_cpu and not values.requires_grad else values.detach().cpu().numpy()
        return array
    return values
