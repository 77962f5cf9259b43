import pytest
import torch
from torch import nn

from marl.distributed.communicators import SerialCommunicator
from marl.distributed.flat_parameters import FlatParameters


class Doubling(SerialCommunicator):
    """Two ranks that always bring the same numbers."""

    size = 2

    def all_reduce(self, tensor, operation="sum"):
        if operation == "sum":
            tensor.mul_(2)


def make_flat(dtype=torch.float32, tail=2):
    actor, critic = nn.Linear(5, 3).to(dtype), nn.Sequential(nn.Linear(4, 7), nn.Linear(7, 1)).to(dtype)
    return actor, critic, FlatParameters({"actor": actor.parameters(), "critic": critic.parameters()}, tail=tail)


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
