import hashlib

import pytest
import torch

from marl.distributed.communicators import SerialCommunicator
from marl.distributed.replica_checks import ReplicaError, assert_replicas_equal, replica_difference


class Scripted(SerialCommunicator):
    """Rank 0 of several whose tensors are all known."""

    def __init__(self, tensors):
        self.size = len(tensors)
        self.words = torch.stack([self.hash(tensor) for tensor in tensors])

    @staticmethod
    def hash(tensor):
        digest = hashlib.blake2b(tensor.view(torch.uint8).numpy().tobytes(), digest_size=16).digest()
        return torch.tensor([int.from_bytes(digest[i : i + 8], "little") >> 1 for i in (0, 8)])

    def all_reduce(self, tensor, operation="sum"):
        assert operation == "min"
        tensor.copy_(torch.cat((self.words, ~self.words), 1).amin(0))

    def gather_rows(self, tensor):
        assert torch.equal(tensor[0], self.words[0])
        return self.words


@pytest.mark.parametrize(
    ("values", "differing"),
    [
        ([1, 1, 1], []),
        ([1, 1, 2, 1], [2]),
        ([2, 1, 1], [0]),
        ([1, 2], [1]),
        ([1, 2, 3], [1, 2]),
        ([2, 1, 1, 2], [1, 2]),
        ([3, 1, 2, 1], [0, 2]),
    ],
)
def test_the_minority_differs_and_the_lowest_rank_is_right_in_a_tie(values, differing):
    tensors = [torch.tensor([float(value)]) for value in values]
    communicator = Scripted(tensors)
    assert replica_difference(communicator, tensors[0]) == differing
    if differing:
        names = ", ".join(map(str, differing))
        with pytest.raises(ReplicaError, match=f"critic differ between ranks: rank {names} disagrees") as error:
            assert_replicas_equal(communicator, tensors[0], "critic")
        assert error.value.ranks == differing


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (2, 3)])
def test_replica_checks_take_any_shape_dtype_and_layout(shape):
    for dtype in (torch.bool, torch.bfloat16, torch.int64, torch.float64):
        tensor = torch.zeros(shape, dtype=dtype)
        assert replica_difference(SerialCommunicator(), tensor) == []
        assert replica_difference(SerialCommunicator(), tensor.requires_grad_(dtype.is_floating_point)) == []
    assert replica_difference(SerialCommunicator(), torch.zeros(3, 2).t()) == []
