"""Checks that hold for any number of ranks; ``test_ranks.py`` runs this file under mpirun and reads its lines."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from marl.core import Communicator
from marl.distributed.communicators import split
from marl.distributed.flat_parameters import FlatParameters
from marl.distributed.replica_checks import ReplicaError, assert_replicas_equal, replica_difference
from marl.errors import InputError
from marl.launchers.bench import allreduce as bench_allreduce
from marl.launchers.mpi.communicator import MPICommunicator
from marl.launchers.mpi.ranks import run_on_ranks

BATCH = 97


def check_sum_min_and_max_of_every_dtype(c: Communicator) -> None:
    ranks = torch.arange(1, c.size + 1)
    for dtype in (torch.float32, torch.float64, torch.int64, torch.uint8):
        for operation, expected in (("sum", ranks.sum()), ("min", 1), ("max", c.size)):
            tensor = torch.full((3, 2), c.rank + 1, dtype=dtype)
            c.all_reduce(tensor, operation)
            assert torch.equal(tensor, torch.full((3, 2), int(expected), dtype=dtype))


def check_bool_is_reduced_as_any_and_all(c: Communicator) -> None:
    flags = torch.tensor([c.rank == 0, True, False])
    anywhere, everywhere = flags.clone(), flags.clone()
    c.all_reduce(anywhere, "max")
    c.all_reduce(everywhere, "min")
    assert anywhere.tolist() == [True, True, False]
    assert everywhere.tolist() == [c.size == 1, True, False]
    with pytest.raises(ValueError, match="bool"):
        c.all_reduce(flags)


def check_reduction_works_on_views_and_empty_tensors(c: Communicator) -> None:
    base = torch.zeros(10)
    c.all_reduce(base[3:7].fill_(1))
    assert base.tolist() == [0, 0, 0] + [float(c.size)] * 4 + [0, 0, 0]
    c.all_reduce(torch.empty(0))
    with pytest.raises(ValueError, match="contiguous"):
        c.all_reduce(torch.zeros(4, 4)[:, 1])
    with pytest.raises(ValueError, match="float16"):
        c.all_reduce(torch.zeros(2, dtype=torch.float16))


def check_broadcast_from_every_root_and_of_any_dtype(c: Communicator) -> None:
    for root in range(c.size):
        for dtype in (torch.float32, torch.bfloat16, torch.int32, torch.bool):
            tensor = torch.full((2, 3), c.rank == root, dtype=dtype)
            c.broadcast(tensor, root)
            assert tensor.all()
        scalar = torch.tensor(c.rank)
        c.broadcast(scalar, root)
        assert scalar.item() == root


def check_gathered_rows_are_in_rank_order_with_an_empty_rank(c: Communicator) -> None:
    # Rank 1 has no rows, the others rank + 1.
    counts = [0 if rank == 1 else rank + 1 for rank in range(c.size)]
    for dtype in (torch.float32, torch.int64, torch.bfloat16, torch.bool):
        mine = torch.full((counts[c.rank], 2, 3), c.rank, dtype=dtype)
        gathered = c.gather_rows(mine)
        if c.rank == 0:
            expected = torch.cat([torch.full((n, 2, 3), rank, dtype=dtype) for rank, n in enumerate(counts)])
            assert gathered.dtype == dtype
            assert torch.equal(gathered, expected)
        else:
            assert gathered.shape == (0, 2, 3)
    assert c.gather_rows(torch.empty(0, 4)).shape == (0, 4)
    assert c.gather_rows(torch.empty(2, 0)).shape == (2 * c.size if c.rank == 0 else 0, 0)


def check_rows_of_different_sizes_are_refused_everywhere(c: Communicator) -> None:
    if c.size > 1:
        with pytest.raises(ValueError, match="different sizes"):
            c.gather_rows(torch.zeros(1, 2 + (c.rank == 1)))


def _networks(seed: int, dtype: torch.dtype) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(seed)
    actor = nn.Sequential(nn.Linear(18, 64), nn.Tanh(), nn.LayerNorm(64), nn.Linear(64, 5))
    critic = nn.Sequential(nn.Linear(54, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1))
    return actor.to(dtype), critic.to(dtype)


def _data(dtype: torch.dtype, update: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1000 + update)
    observations = torch.randn(BATCH, 18, generator=generator, dtype=torch.float64).to(dtype)
    states = torch.randn(BATCH, 54, generator=generator, dtype=torch.float64).to(dtype)
    actions = torch.randint(5, (BATCH,), generator=generator)
    returns = torch.randn(BATCH, generator=generator, dtype=torch.float64).to(dtype)
    return observations, states, actions, returns


def _loss(actor: nn.Module, critic: nn.Module, rows: slice, data: tuple[Tensor, ...]) -> Tensor:
    """A sum over samples, as learners use: the division by the global count comes after the all-reduce."""
    observations, states, actions, returns = (part[rows] for part in data)
    policy_loss = nn.functional.cross_entropy(actor(observations), actions, reduction="none") * returns
    value_loss = (critic(states).squeeze(-1) - returns).square()
    return policy_loss.sum() + value_loss.sum()


def _shares(size: int) -> list[list[int]]:
    """Uneven shares of the batch; in the second of each a rank has nothing."""
    return {
        1: [[BATCH]],
        2: [[60, 37], [0, BATCH]],
        3: [[50, 46, 1], [60, 0, 37]],
        4: [[1, 60, 24, 12], [13, 0, 60, 24]],
    }[size]


def check_gradients_of_uneven_shares_equal_the_full_batch(c: Communicator) -> None:
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.float64, 1e-12)):
        for shares in _shares(c.size):
            reference = _networks(1, dtype)
            (_loss(*reference, slice(0, BATCH), _data(dtype)) / BATCH).backward()
            # Every rank begins with other weights: the broadcast must make them equal.
            actor, critic = _networks(1 + c.rank, dtype)
            flat = FlatParameters({"actor": actor.parameters(), "critic": critic.parameters()}, tail=2)
            flat.broadcast(c)
            first = sum(shares[: c.rank])
            flat.zero_gradients()
            _loss(actor, critic, slice(first, first + shares[c.rank]), _data(dtype)).backward()
            flat.tail[0] = shares[c.rank]
            flat.all_reduce(c)
            assert flat.tail.tolist() == [BATCH, 0]
            flat.gradients /= flat.tail[0]
            for ours, theirs in zip((actor, critic), reference, strict=True):
                for mine, right in zip(ours.parameters(), theirs.parameters(), strict=True):
                    assert torch.equal(mine, right)
                    error = (mine.grad - right.grad).norm() / right.grad.norm()
                    assert error <= tolerance, (dtype, shares, float(error))


def check_a_rank_that_runs_no_backward_contributes_zeros(c: Communicator) -> None:
    layer = nn.Linear(3, 2)
    flat = FlatParameters({"layer": layer.parameters()}, tail=1)
    flat.broadcast(c)
    flat.gradients.fill_(float("nan"))
    flat.zero_gradients()
    if c.rank == 0:
        layer(torch.ones(4, 3)).sum().backward()
        flat.tail[0] = 4
    flat.all_reduce(c)
    assert flat.tail.item() == 4
    assert torch.equal(layer.weight.grad, torch.full((2, 3), 4.0))


def _train(c: Communicator, dtype: torch.dtype, updates: int) -> FlatParameters:
    actor, critic = _networks(5 + c.rank, dtype)
    if c.rank == 0:
        actor, critic = _networks(5, dtype)
    flat = FlatParameters({"actor": actor.parameters(), "critic": critic.parameters()}, tail=1)
    flat.broadcast(c)
    optimizer = torch.optim.Adam([*actor.parameters(), *critic.parameters()], lr=1e-3, eps=1e-5)
    for update in range(updates):
        first, count = split(BATCH, c.size, c.rank)
        flat.zero_gradients()
        _loss(actor, critic, slice(first, first + count), _data(dtype, update)).backward()
        flat.tail[0] = count
        flat.all_reduce(c)
        flat.gradients /= flat.tail[0]
        nn.utils.clip_grad_norm_([*actor.parameters(), *critic.parameters()], 0.5)
        optimizer.step()
        assert_replicas_equal(c, flat.parameters)
    return flat


def check_replicas_stay_bit_identical_and_weights_are_those_of_one_rank(c: Communicator) -> None:
    folder = Path(sys.argv[1])
    for dtype in (torch.float32, torch.float64):
        flat = _train(c, dtype, 20)
        if c.rank == 0:
            torch.save(flat.parameters, folder / f"{c.size}-{dtype}.pt")


def check_a_corrupted_replica_is_found_and_named(c: Communicator) -> None:
    weights = torch.linspace(-1, 1, 1000)
    assert replica_difference(c, weights) == []
    guilty = c.size - 1
    if c.rank == guilty and c.size > 1:
        weights[123] = torch.nextafter(weights[123], torch.tensor(2.0))
    if c.size == 1:
        assert replica_difference(c, weights) == []
        return
    assert replica_difference(c, weights) == [guilty]
    with pytest.raises(ReplicaError, match=f"rank {guilty} ") as caught:
        assert_replicas_equal(c, weights, what="weights")
    assert caught.value.ranks == [guilty]


def check_a_corrupted_rank_0_is_outvoted(c: Communicator) -> None:
    if c.size > 2:
        assert replica_difference(c, torch.tensor([c.rank == 0])) == [0]


def check_not_a_number_is_equal_to_itself_but_signed_zeros_differ(c: Communicator) -> None:
    assert replica_difference(c, torch.tensor([float("nan")], dtype=torch.bfloat16)) == []
    zeros = torch.tensor(-0.0 if c.rank == 1 else 0.0)
    assert replica_difference(c, zeros) == ([1] if c.size > 1 else [])


def check_the_benchmark_compares_three_networks(c: Communicator) -> None:
    if c.size == 1:
        with pytest.raises(InputError, match="--ranks 2"):
            next(bench_allreduce.run(c))
        return
    rows = list(bench_allreduce.run(c, repeats=2))
    assert len(rows) == 9
    for row in rows:
        assert list(row) == ["name", "value", "unit", "reference", "ratio"]
        assert row["ratio"] == pytest.approx(row["value"] / row["reference"])


CHECKS: dict[str, Callable[[Communicator], None]] = {
    name: function for name, function in list(globals().items()) if name.startswith("check_")
}


def main(_: Communicator) -> int:
    communicator = MPICommunicator()
    torch.set_num_threads(1)
    for name, check in CHECKS.items():
        check(communicator)
        communicator.all_reduce(torch.zeros(1))
        if communicator.rank == 0:
            sys.stdout.write(f"passed {name}\n")
            sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(run_on_ranks(main))
