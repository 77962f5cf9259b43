"""Results of rank 0, broadcast to all ranks."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TypeVar

import torch

from marl.core import Communicator
from marl.errors import InputError

T = TypeVar("T")


def from_root(communicator: Communicator, action: Callable[[], T]) -> T:
    """Runs ``action`` on rank 0 and returns its result, which must be JSON, on all ranks; an InputError ends all."""
    size = torch.zeros(1, dtype=torch.int64)
    data = torch.zeros(0, dtype=torch.uint8)
    error: BaseException | None = None
    if communicator.rank == 0:
        try:
            data = torch.frombuffer(bytearray(json.dumps(action()).encode()), dtype=torch.uint8)
            size.fill_(data.numel())
        except InputError as raised:
            error = raised
            size.fill_(-1)
    communicator.broadcast(size)
    if error is not None:
        raise error
    if int(size) < 0:
        raise SystemExit(2)
    if communicator.rank != 0:
        data = torch.zeros(int(size), dtype=torch.uint8)
    communicator.broadcast(data)
    value: T = json.loads(bytes(data.tolist()))
    return value
