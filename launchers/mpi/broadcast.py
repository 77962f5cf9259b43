"""What the first rank finds out, told to all ranks."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TypeVar

import torch

from marl.core import Communicator
from marl.errors import InputError

T = TypeVar("T")


def from_root(communicator: Communicator, action: Callable[[], T]) -> T:
    """What ``action`` returns on rank 0, on all ranks; it must be JSON. Where it is refused, all ranks end."""
    size = torch.zeros(1, dtype=torch.int64)
    data = torch.zeros(0, dtype=torch.uint8)
    problem: BaseException | None = None
    if communicator.rank == 0:
        try:
            data = torch.frombuffer(bytearray(json.dumps(action()).encode()), dtype=torch.uint8)
            size.fill_(data.numel())
        except InputError as error:
            problem = error
            size.fill_(-1)
    communicator.broadcast(size)
    if problem is not None:
        raise problem
    if int(size) < 0:
        raise SystemExit(2)
    if communicator.rank != 0:
        data = torch.zeros(int(size), dtype=torch.uint8)
    communicator.broadcast(data)
    value: T = json.loads(bytes(data.tolist()))
    return value
