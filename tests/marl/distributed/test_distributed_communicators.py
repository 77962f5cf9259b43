import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from marl.core import Communicator
from marl.distributed.communicators import SerialCommunicator, split


def test_a_single_process_leaves_tensors_as_they_are():
    communicator = SerialCommunicator()
    tensor = torch.arange(4.0)
    for operation in ("sum", "min", "max"):
        communicator.all_reduce(tensor, operation)
    communicator.broadcast(tensor)
    assert isinstance(communicator, Communicator)
    assert (communicator.rank, communicator.size) == (0, 1)
    assert tensor.tolist() == [0, 1, 2, 3]


def test_a_single_process_gathers_a_copy():
    tensor = torch.zeros(3, 2)
    gathered = SerialCommunicator().gather_rows(tensor)
    tensor.fill_(1)
    assert torch.equal(gathered, torch.zeros(3, 2))


@pytest.mark.parametrize("method", ["all_reduce", "broadcast", "gather_rows"])
def test_a_single_process_refuses_what_several_would(method):
    with pytest.raises(ValueError, match="contiguous"):
        getattr(SerialCommunicator(), method)(torch.zeros(3, 2).t())


def test_a_single_process_has_no_other_root_no_bool_sum_and_no_rows_in_a_scalar():
    communicator = SerialCommunicator()
    with pytest.raises(ValueError, match="no rank 1"):
        communicator.broadcast(torch.zeros(1), root=1)
    with pytest.raises(ValueError, match="bool"):
        communicator.all_reduce(torch.tensor([True]))
    with pytest.raises(ValueError, match="scalar"):
        communicator.gather_rows(torch.tensor(1))


def test_abort_leaves_a_single_process_with_the_code():
    with pytest.raises(SystemExit) as exit_:
        SerialCommunicator().abort(75)
    assert exit_.value.code == 75


@given(total=st.integers(0, 1000), size=st.integers(1, 70))
def test_shares_are_contiguous_complete_and_differ_by_at_most_one(total, size):
    shares = [split(total, size, rank) for rank in range(size)]
    position = 0
    for first, count in shares:
        assert first == position
        position += count
    assert position == total
    counts = [count for _, count in shares]
    assert max(counts) - min(counts) <= 1
    assert counts == sorted(counts, reverse=True)


def test_128_copies_on_3_ranks():
    assert [split(128, 3, rank) for rank in range(3)] == [(0, 43), (43, 43), (86, 42)]


@pytest.mark.parametrize(("total", "size", "rank"), [(-1, 1, 0), (4, 2, 2), (4, 2, -1), (4, 0, 0)])
def test_impossible_shares_are_refused(total, size, rank):
    with pytest.raises(ValueError, match="share"):
        split(total, size, rank)
