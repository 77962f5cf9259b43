"""What rank 0 knows reaches all ranks, or all of them end."""

import pytest
import torch

from marl.distributed import broadcast
from marl.distributed.broadcast import broadcast_tensors, from_root
from marl.errors import InputError
from marl.testing.threads import run_on_threads

TENSORS = {
    "weights": torch.linspace(-1, 1, 7),
    "double": torch.tensor([[1.0, float("nan")], [float("inf"), -0.0]], dtype=torch.float64),
    "brain": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "flags": torch.tensor([True, False, True]),
    "count": torch.tensor(12345678901),
    "words": torch.tensor([2**32 - 1], dtype=torch.uint32),
    "none": torch.zeros(0, 3),
    "transposed": torch.arange(6.0).view(2, 3).t(),
}


@pytest.mark.parametrize("piece", [1 << 30, 5])
def test_tensors_of_any_dtype_and_layout_come_over_bit_by_bit(monkeypatch, piece):
    monkeypatch.setattr(broadcast, "_MOST_BYTES", piece)
    for received in run_on_threads(3, lambda ranks: broadcast_tensors(ranks, None if ranks.rank else TENSORS)):
        assert list(received) == list(TENSORS)
        for name, tensor in TENSORS.items():
            assert received[name].dtype == tensor.dtype
            assert received[name].shape == tensor.shape
            same = [one.contiguous().view(-1).view(torch.uint8) for one in (received[name], tensor) if one.numel()]
            assert not same or torch.equal(*same)


def test_a_result_of_rank_0_reaches_all_ranks():
    assert (
        run_on_threads(3, lambda ranks: from_root(ranks, lambda: {"rank": ranks.rank, "ä": None}))
        == [{"rank": 0, "ä": None}] * 3
    )


def test_an_input_error_on_rank_0_ends_the_others_with_code_2():
    ended = []

    def work(ranks):
        def refuse():
            raise InputError("no such folder")

        try:
            from_root(ranks, refuse)
        except InputError as error:
            ended.append((ranks.rank, str(error)))
        except SystemExit as error:
            ended.append((ranks.rank, error.code))

    run_on_threads(2, work)
    assert sorted(ended) == [(0, "no such folder"), (1, 2)]
