"""Names that only some ranks know, agreed on by all of them."""

from __future__ import annotations

import json
from collections.abc import Iterable

import torch
from torch import Tensor

from marl.core import Communicator


def agree_on_names(names: Iterable[str], communicator: Communicator) -> tuple[str, ...]:
    """All ranks' names, sorted; the same on all ranks. Collective."""
    own = sorted(set(names))
    most = torch.tensor([len(own)])
    communicator.all_reduce(most, "max")
    if not int(most) or communicator.size == 1:
        return tuple(own)
    gathered = communicator.gather_rows(encode_names(own))
    found = sorted({name for line in decode_lines(gathered) for name in line})
    message = encode_names(found)
    length = torch.tensor([len(message)])
    communicator.broadcast(length)
    if communicator.rank:
        message = torch.zeros(int(length), dtype=torch.int64)
    communicator.broadcast(message)
    (agreed,) = decode_lines(message)
    return tuple(agreed)


def encode_names(names: Iterable[str]) -> Tensor:
    """Names as the int64 bytes of one line."""
    return torch.tensor(list(json.dumps(list(names)).encode() + b"\n"), dtype=torch.int64)


def decode_lines(message: Tensor) -> list[list[str]]:
    """The names of each line of what ``encode_names`` returned, one after the other."""
    return [json.loads(line) for line in bytes(message.tolist()).splitlines()]
