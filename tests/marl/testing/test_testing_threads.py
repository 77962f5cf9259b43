import pytest
import torch

from marl.testing.environment_checks import ConformanceError
from marl.testing.threads import run_on_threads


def test_threads_reduce_broadcast_and_gather_in_the_order_of_ranks():
    def work(ranks):
        numbers = torch.tensor([float(ranks.rank), 1.0])
        total, least, most, word = (numbers.clone() for _ in range(4))
        ranks.all_reduce(total)
        ranks.all_reduce(least, "min")
        ranks.all_reduce(most, "max")
        ranks.broadcast(word, root=1)
        rows = ranks.gather_rows(torch.full((ranks.rank, 2), float(ranks.rank)))
        return [x.tolist() for x in (total, least, most, word, rows)]

    first, *others = run_on_threads(3, work)
    assert first == [[3.0, 3.0], [0.0, 1.0], [2.0, 1.0], [1.0, 1.0], [[1.0, 1.0], [2.0, 2.0], [2.0, 2.0]]]
    assert [other[:4] for other in others] == [first[:4]] * 2
    assert [other[4] for other in others] == [[], []]


def test_threads_use_the_global_generator_one_after_the_other():
    def work(ranks):
        torch.manual_seed(7)
        before = torch.rand(1000)
        ranks.all_reduce(torch.zeros(1))
        return before

    drawn = run_on_threads(4, work)
    assert all(torch.equal(drawn[0], other) for other in drawn)


def test_many_rounds_on_threads_never_mix_up_their_tensors():
    def work(ranks):
        seen = []
        for number in range(50):
            tensor = torch.tensor([number * 10 + ranks.rank])
            ranks.all_reduce(tensor)
            seen.append(int(tensor))
        return seen

    assert run_on_threads(3, work) == [[3 * 10 * number + 3 for number in range(50)]] * 3


def test_ranks_that_call_different_collectives_are_found_out():
    def different_operations(ranks):
        ranks.all_reduce(torch.zeros(2), "sum" if ranks.rank else "max")

    def different_counts(ranks):
        for _ in range(1 + ranks.rank):
            ranks.all_reduce(torch.zeros(2))

    def different_shapes(ranks):
        ranks.all_reduce(torch.zeros(2 + ranks.rank))

    for work in (different_operations, different_counts, different_shapes):
        with pytest.raises(ConformanceError, match="same collective calls"):
            run_on_threads(2, work)


def test_a_failure_on_one_thread_ends_all_and_is_raised():
    def work(ranks):
        if ranks.rank == 1:
            raise RuntimeError("rank 1 had enough")
        ranks.all_reduce(torch.zeros(1))

    with pytest.raises(RuntimeError, match="had enough"):
        run_on_threads(3, work)
