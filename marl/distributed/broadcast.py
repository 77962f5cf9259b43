"""Results and tensors of rank 0, broadcast to all ranks."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import torch
from torch import Tensor

from marl.core import Communicator
from marl.errors import InputError, OrderlyExit

T = TypeVar("T")

_MOST_BYTES: Final = 1 << 30
"""Of one message: MPI counts are 32 bits wide."""


def from_root(communicator: Communicator, action: Callable[[], T]) -> T:
    """Runs ``action`` on rank 0 and returns its result, which must be JSON, on all ranks; an InputError ends all."""
    size = torch.zeros(1, dtype=torch.int64)
    data = torch.zeros(0, dtype=torch.uint8)
    error: BaseException | None = None
    if communicator.rank == 0:
        try:
            data = encode(json.dumps(action()))
            size.fill_(data.numel())
        except InputError as raised:
            error = raised
            size.fill_(-1)
    communicator.broadcast(size)
    if error is not None:
        raise error
    if int(size) < 0:
        raise OrderlyExit(2)
    if communicator.rank != 0:
        data = torch.zeros(int(size), dtype=torch.uint8)
    communicator.broadcast(data)
    value: T = json.loads(data.numpy().tobytes())
    return value


def encode(text: str) -> Tensor:
    """Returns text as a tensor of its bytes in UTF-8: (n,), uint8."""
    return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)


def broadcast_tensors(communicator: Communicator, tensors: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """Sends tensors by name from rank 0 to all ranks. Collective.

    Args:
        communicator: the ranks.
        tensors: of any shapes and dtypes, on the CPU; read on rank 0 only.

    Returns:
        Rank 0's tensors, on all ranks; on rank 0 they are the same objects.
    """
    if communicator.size == 1:
        return dict(tensors or {})

    def describe() -> list[list[Any]]:
        assert tensors is not None, "rank 0 has the tensors"
        return [[name, str(value.dtype).removeprefix("torch."), list(value.shape)] for name, value in tensors.items()]

    received: dict[str, Tensor] = {}
    for name, dtype, shape in from_root(communicator, describe):
        value = (
            tensors[name].contiguous()
            if communicator.rank == 0 and tensors is not None
            else torch.empty(shape, dtype=getattr(torch, dtype))
        )
        for piece in value.view(-1).view(torch.uint8).split(_MOST_BYTES) if value.numel() else ():
            communicator.broadcast(piece)
        received[name] = value
    return received
