import hashlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from marl.core import Communicator
from marl.distributed.communicators import SerialCommunicator, split
from marl.distributed.flat_parameters import FlatParameters
from marl.distributed.replicas import ReplicaError, assert_replicas_equal, replica_difference


class Doubling(SerialCommunicator):
    """Two ranks that always bring the same numbers."""

    size = 2

    def all_reduce(self, tensor, operation="sum"):
        if operation == "sum":
            tensor.mul_(2)


def make_flat(dtype=torch.float32, tail=2):
    actor, critic = nn.Linear(5, 3).to(dtype), nn.Sequential(nn.Linear(4, 7), nn.Linear(7, 1)).to(dtype)
    return actor, critic, FlatParameters({"actor": actor.parameters(), "critic": critic.parameters()}, tail=tail)


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_making_parameters_flat_keeps_their_values(dtype):
    torch.manual_seed(0)
    before = [p.detach().clone() for p in nn.Linear(5, 3).to(dtype).parameters()]
    torch.manual_seed(0)
    actor, _, flat = make_flat(dtype)
    for old, new in zip(before, actor.parameters(), strict=True):
        assert torch.equal(old, new)
        assert isinstance(new, nn.Parameter)
    assert flat.parameters.dtype == flat.gradients.dtype == flat.tail.dtype == dtype


def test_writing_into_the_flat_buffers_writes_into_the_networks():
    actor, critic, flat = make_flat()
    flat.parameters.fill_(3)
    flat.gradients.fill_(4)
    for parameter in (*actor.parameters(), *critic.parameters()):
        assert (parameter == 3).all()
        assert (parameter.grad == 4).all()
    assert (flat.tail == 0).all()


def test_segments_lie_in_order_begin_on_cache_lines_and_cover_everything():
    actor, critic, flat = make_flat()
    first, second = flat.segment("actor"), flat.segment("critic")
    assert flat.names == ("actor", "critic")
    assert (first.slice.start, first.slice.stop, second.slice.stop) == (0, second.slice.start, flat.parameters.numel())
    assert all(
        p.data_ptr() % 64 == 0 and p.grad.data_ptr() % 64 == 0 for p in (*actor.parameters(), *critic.parameters())
    )
    first.gradients.fill_(1)
    assert all((p.grad == 1).all() for p in actor.parameters())
    assert all((p.grad == 0).all() for p in critic.parameters())
    with pytest.raises(KeyError):
        flat.segment("mixer")


def test_gradients_of_backward_land_in_the_flat_buffer_and_accumulate_until_cleared():
    actor, _, flat = make_flat()
    for times in (1, 2):
        actor(torch.ones(2, 5)).sum().backward()
        assert torch.equal(actor.bias.grad, torch.full((3,), 2.0 * times))
        # 15 weights with gradient 2, three biases with gradient 2, and padding without.
        assert flat.gradients.sum() == 36 * times
    flat.tail[1] = 9
    flat.zero_gradients()
    assert actor.bias.grad.count_nonzero() == 0
    assert flat.tail.count_nonzero() == 0
    flat.check_views()


def test_the_norm_of_a_segment_is_the_norm_of_its_parameters_gradients():
    actor, _, flat = make_flat()
    actor(torch.randn(8, 5)).square().sum().backward()
    expected = nn.utils.get_total_norm([p.grad for p in actor.parameters()])
    torch.testing.assert_close(flat.segment("actor").gradients.norm(), expected)


def test_one_flat_parameter_is_optimized_like_the_single_ones():
    torch.manual_seed(0)
    one, _, flat = make_flat()
    several = nn.Linear(5, 3)
    several.load_state_dict(one.state_dict())
    optimizers = (
        torch.optim.Adam([flat.flat_parameter("actor")], lr=0.1, weight_decay=0.1),
        torch.optim.Adam(several.parameters(), lr=0.1, weight_decay=0.1),
    )
    for _ in range(5):
        flat.zero_gradients()
        several.zero_grad()
        inputs = torch.randn(6, 5)
        for network in (one, several):
            network(inputs).square().sum().backward()
        for optimizer in optimizers:
            optimizer.step()
        for ours, theirs in zip(one.parameters(), several.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs)
    assert flat.flat_parameter("actor") is flat.flat_parameter("actor")
    assert flat.flat_parameter().numel() == flat.parameters.numel()
    padded = torch.ones(flat.segment("actor").parameters.numel(), dtype=torch.bool)
    padded[:15] = padded[16:19] = False
    assert flat.segment("actor").parameters[padded].count_nonzero() == 0


def test_all_reduce_takes_gradients_and_tail_in_one_call_and_broadcast_the_parameters():
    calls = []

    class Recording(SerialCommunicator):
        def all_reduce(self, tensor, operation="sum"):
            calls.append((tensor.data_ptr(), tensor.numel(), operation))

        def broadcast(self, tensor, root=0):
            calls.append((tensor.data_ptr(), tensor.numel(), root))

    _, _, flat = make_flat(tail=3)
    flat.all_reduce(Recording())
    flat.broadcast(Recording())
    size = flat.parameters.numel()
    assert calls == [(flat.gradients.data_ptr(), size + 3, "sum"), (flat.parameters.data_ptr(), size, 0)]
    assert flat.tail.data_ptr() == flat.gradients.data_ptr() + size * 4


@pytest.mark.parametrize("flat_too", [False, True])
def test_an_optimizer_that_throws_gradients_away_is_found(flat_too):
    actor, _, flat = make_flat()
    parameters = [flat.flat_parameter("actor")] if flat_too else actor.parameters()
    torch.optim.SGD(parameters, lr=0.1).zero_grad()
    for call in (flat.check_views, lambda: flat.all_reduce(SerialCommunicator())):
        with pytest.raises(RuntimeError, match=r"no longer a view.*zero_gradients"):
            call()


def test_a_gradient_that_was_replaced_by_backward_is_found():
    actor, _, flat = make_flat()
    actor.zero_grad()
    actor(torch.ones(1, 5)).sum().backward()
    with pytest.raises(RuntimeError, match="gradient"):
        flat.check_views()


def test_parameters_that_moved_elsewhere_are_found():
    actor, _, flat = make_flat()
    actor.weight.data = actor.weight.data.clone()
    with pytest.raises(RuntimeError, match=r"parameter of shape \(3, 5\) is no longer"):
        flat.broadcast(SerialCommunicator())


def test_loading_weights_optimizing_and_clipping_keep_the_views():
    actor, critic, flat = make_flat()
    actor.load_state_dict(nn.Linear(5, 3).state_dict())
    optimizer = torch.optim.Adam([*actor.parameters(), *critic.parameters()])
    actor(torch.ones(2, 5)).sum().backward()
    nn.utils.clip_grad_norm_(actor.parameters(), 0.1)
    optimizer.step()
    optimizer.zero_grad(set_to_none=False)
    flat.check_views()


def test_flat_parameters_refuse_nothing_twice_and_mixtures():
    layer = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="no parameters"):
        FlatParameters({"actor": []})
    with pytest.raises(ValueError, match="twice"):
        FlatParameters({"actor": layer.parameters(), "critic": layer.parameters()})
    with pytest.raises(ValueError, match="one dtype"):
        FlatParameters({"actor": layer.parameters(), "critic": nn.Linear(2, 2).double().parameters()})


def test_a_float32_tail_counts_exactly_up_to_two_to_the_24():
    flat = FlatParameters({"layer": nn.Linear(1, 1).parameters()}, tail=1)
    flat.tail[0] = 2**23
    flat.all_reduce(Doubling())
    assert flat.tail.item() == 2**24


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
