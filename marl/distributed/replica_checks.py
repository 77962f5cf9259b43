"""Checks that replicas are equal on all ranks, bit by bit."""

from __future__ import annotations

import hashlib
from collections import Counter

import torch
from torch import Tensor

from marl.core import Communicator


class ReplicaError(RuntimeError):
    """Raised where replicas that must be equal are not; ``ranks`` are those that differ from the majority."""

    def __init__(self, what: str, ranks: list[int]) -> None:
        self.ranks = ranks
        names = ", ".join(str(rank) for rank in ranks)
        super().__init__(f"{what} differ between ranks: rank {names} disagrees with the majority")


def _fingerprint(tensor: Tensor) -> Tensor:
    content = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
    digest = hashlib.blake2b(content.data, digest_size=16).digest()
    words = [int.from_bytes(digest[begin : begin + 8], "little") >> 1 for begin in (0, 8)]
    return torch.tensor(words, dtype=torch.int64)


def replica_difference(communicator: Communicator, tensor: Tensor) -> list[int]:
    """Ranks whose tensor differs, bit by bit, from that of most ranks; the same list on all ranks.

    Equal replicas cost one all-reduce of 32 bytes. Where two contents are equally frequent, the one on the lowest
    rank counts as right.

    Args:
        communicator: the ranks that compare; all must call.
        tensor: any shape and dtype.

    Returns:
        Ascending ranks; empty where all agree.
    """
    words = _fingerprint(tensor)
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


def assert_replicas_equal(communicator: Communicator, tensor: Tensor, what: str = "parameters") -> None:
    """Raises ReplicaError, naming the ranks, where a tensor is not bit-identical on all ranks; all must call."""
    if ranks := replica_difference(communicator, tensor):
        raise ReplicaError(what, ranks)
