import hashlib

import pytest
import torch

from marl.distributed.communicators import SerialCommunicator
from marl.distributed.replica_checks import (
    ReplicaError,
    assert_replicas_equal,
    refuse_other_settings,
    replica_difference,
)
from marl.errors import InputError
from marl.testing.threads import run_on_threads


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
            assert_replicas_equal(communicator, tensors[0], what="critic")
        assert error.value.ranks == differing


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (2, 3)])
def test_replica_checks_take_any_shape_dtype_and_layout(shape):
    for dtype in (torch.bool, torch.bfloat16, torch.int64, torch.float64):
        tensor = torch.zeros(shape, dtype=dtype)
        assert replica_difference(SerialCommunicator(), tensor) == []
        assert replica_difference(SerialCommunicator(), tensor.requires_grad_(dtype.is_floating_point)) == []
    assert replica_difference(SerialCommunicator(), torch.zeros(3, 2).t()) == []


@pytest.mark.parametrize("seed", range(100))
def test_a_difference_in_any_bit_of_any_of_several_tensors_is_found_and_named(seed):
    """Planted at random: the rank, the tensor, the element and the bit."""
    generator = torch.Generator().manual_seed(seed)

    def draw(bound: int) -> int:
        return int(torch.randint(bound, (1,), generator=generator))

    sizes = [1 + draw(50) for _ in range(4)]
    guilty, which = draw(3), draw(4)
    element, bit = draw(sizes[which]), draw(32)

    def compare(communicator):
        tensors = [torch.linspace(-1, 1, size) for size in sizes]
        if communicator.rank == guilty:
            tensors[which].view(torch.int32)[element] ^= (1 << bit) - (1 << 32 if bit == 31 else 0)
        return replica_difference(communicator, *tensors)

    assert run_on_threads(3, compare) == [[guilty]] * 3


def test_ranks_started_with_other_settings_are_refused_and_say_in_what_they_differ():
    told = []

    def start(communicator):
        settings = {"--seed": str(int(communicator.rank == 2)), "torch": "2.9", "--steps": "100"}
        try:
            refuse_other_settings(communicator, settings)
        except InputError as error:
            told.append((communicator.rank, str(error)))

    run_on_threads(3, start)
    first = "ranks were started with other options or package versions than most: rank 2"
    assert sorted(told) == [(0, first), (1, first), (2, f"{first}; rank 2 has --seed 1, rank 0 0")]


def test_ranks_started_alike_go_on():
    run_on_threads(3, lambda communicator: refuse_other_settings(communicator, {"--seed": "0"}))
