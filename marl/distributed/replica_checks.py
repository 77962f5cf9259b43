"""Checks that what must be the same on all ranks is the same, bit by bit: replicas, counters, settings."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from marl.core import Communicator
from marl.distributed.broadcast import encode, from_root
from marl.errors import InputError


class ReplicaError(RuntimeError):
    """Raised where replicas that must be equal are not; ``ranks`` are those that differ from the majority."""

    def __init__(self, what: str, ranks: list[int]) -> None:
        self.ranks = ranks
        names = ", ".join(str(rank) for rank in ranks)
        super().__init__(f"{what} differ between ranks: rank {names} disagrees with the majority")


def _fingerprint(tensors: Iterable[Tensor]) -> Tensor:
    digest = hashlib.blake2b(digest_size=16)
    for tensor in tensors:
        if tensor.numel():
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    found = digest.digest()
    words = [int.from_bytes(found[begin : begin + 8], "little") >> 1 for begin in (0, 8)]
    return torch.tensor(words, dtype=torch.int64)


def replica_difference(communicator: Communicator, *tensors: Tensor) -> list[int]:
    """Ranks whose tensors differ, bit by bit, from those of most ranks; the same list on all ranks.

    Equal replicas cost one all-reduce of 32 bytes. Where two contents are equally frequent, the one on the lowest
    rank counts as right.

    Args:
        communicator: the ranks that compare; all must call.
        tensors: any shapes and dtypes.

    Returns:
        Ascending ranks; empty where all agree.
    """
    words = _fingerprint(tensors)
    # The minimum of the complement is the complement of the maximum: one collective finds both.
    extremes = torch.cat((words, ~words))
    communicator.all_reduce(extremes, "min")
    if torch.equal(extremes[:2], ~extremes[2:]):
        return []
    differing = torch.zeros(communicator.size, dtype=torch.int64)
    rows = communicator.gather_rows(words.view(1, 2))
    if communicator.rank == 0:
        contents = [tuple(row) for row in rows.tolist()]
        # most_common keeps the order of first appearance among equals.
        right = Counter(contents).most_common(1)[0][0]
        differing.copy_(torch.tensor([content != right for content in contents]))
    communicator.broadcast(differing)
    return [rank for rank, flag in enumerate(differing.tolist()) if flag]


def assert_replicas_equal(communicator: Communicator, *tensors: Tensor, what: str = "parameters") -> None:
    """Raises ReplicaError, naming the ranks, where tensors are not bit-identical on all ranks; all must call."""
    if ranks := replica_difference(communicator, *tensors):
        raise ReplicaError(what, ranks)


def refuse_other_settings(communicator: Communicator, settings: Mapping[str, str]) -> None:
    """Refuses to go on where ranks were started with other settings or versions; all must call.

    Ranks that read different options reach different collectives, or none, and would wait for each other for ever, or
    learn from numbers that do not belong together.

    Args:
        communicator: the ranks that compare.
        settings: what must be the same everywhere, by name, as text.

    Raises:
        InputError: on all ranks; a rank that differs from rank 0 says in what.
    """
    own = json.dumps(settings, sort_keys=True)
    if not (ranks := replica_difference(communicator, encode(own))):
        return
    first: dict[str, str] = json.loads(from_root(communicator, lambda: own))
    names = ", ".join(map(str, ranks))
    message = f"ranks were started with other options or package versions than most: rank {names}"
    for name in sorted({*first, *settings}):
        if first.get(name) != settings.get(name):
            message += f"; rank {communicator.rank} has {name} {settings.get(name)}, rank 0 {first.get(name)}"
    raise InputError(message)
