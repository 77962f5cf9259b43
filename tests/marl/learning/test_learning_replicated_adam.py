"""One step on several replicas: sums divided by global counts, clipping by network, and bad gradients refused."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from marl.distributed.communicators import SerialCommunicator
from marl.errors import InputError
from marl.learning.replicated_adam import ReplicatedAdam


class TwoRanks(SerialCommunicator):
    """Rank 0 of two, whose other rank holds the tensors given."""

    size = 2

    def __init__(self, other):
        self.other = other

    def all_reduce(self, tensor, operation="sum"):
        tensor += self.other


def make(communicator=None, *, max_gradient_norm=1e9, learning_rate=0.1):
    torch.manual_seed(0)
    actor, critic = nn.Linear(3, 2), nn.Linear(3, 1)
    optimizer = ReplicatedAdam(
        {"actor": list(actor.parameters()), "critic": list(critic.parameters())},
        communicator or SerialCommunicator(),
        learning_rate=learning_rate,
        epsilon=1e-5,
        max_gradient_norm=max_gradient_norm,
        bookkeeping=2,
    )
    return actor, critic, optimizer


def backward(actor, critic, scale=1.0):
    x = torch.tensor([[1.0, 2.0, 3.0], [0.5, -1.0, 2.0]])
    (scale * actor(x).square().sum() + critic(x).square().sum()).backward()


def test_a_step_is_adams_on_averaged_and_separately_clipped_gradients():
    actor, critic, optimizer = make(max_gradient_norm=0.5)
    reference = [nn.Linear(3, 2), nn.Linear(3, 1)]
    for mine, theirs in zip((actor, critic), reference, strict=True):
        theirs.load_state_dict(mine.state_dict())
    adam = torch.optim.Adam([*reference[0].parameters(), *reference[1].parameters()], lr=0.1, eps=1e-5)
    for _ in range(5):
        optimizer.zero()
        backward(actor, critic)
        optimizer.reduce()
        norm = optimizer.step({"actor": 4.0, "critic": 2.0})
        adam.zero_grad()
        backward(*reference)
        for parameter in reference[0].parameters():
            parameter.grad /= 4.0
        for parameter in reference[1].parameters():
            parameter.grad /= 2.0
        norms = [nn.utils.clip_grad_norm_(module.parameters(), 0.5) for module in reference]
        assert norm == pytest.approx(float(max(norms)), rel=1e-5)
        adam.step()
    for mine, theirs in zip((actor, critic), reference, strict=True):
        torch.testing.assert_close(mine.weight, theirs.weight)
        torch.testing.assert_close(mine.bias, theirs.bias)


def test_gradients_and_bookkeeping_of_all_ranks_are_summed():
    actor, critic, alone = make()
    alone.zero()
    backward(actor, critic)
    alone.tail.copy_(torch.tensor([3.0, 4.0]))
    other = torch.cat((actor.weight.grad.new_zeros(0), alone._flat._buffer.clone()))
    actor, critic, both = make(TwoRanks(other))
    both.zero()
    backward(actor, critic)
    mine = actor.weight.grad.clone()
    both.tail.copy_(torch.tensor([1.0, 1.0]))
    both.reduce()
    assert both.tail.tolist() == [4.0, 5.0]
    torch.testing.assert_close(actor.weight.grad, 2 * mine)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["here", "on another rank"])
def test_a_gradient_that_is_not_finite_on_any_rank_skips_the_step(bad, where):
    actor, critic, optimizer = make()
    size = optimizer._flat._buffer.numel()
    other = torch.zeros(size)
    if where != "here":
        other[1] = bad
    optimizer._communicator = TwoRanks(other)
    before = optimizer.parameters.clone()
    optimizer.zero()
    backward(actor, critic, bad if where == "here" else 1.0)
    optimizer.reduce()
    assert not optimizer.step({"actor": 2.0, "critic": 2.0}) < float("inf")
    assert optimizer.skipped == 1
    assert torch.equal(optimizer.parameters, before)
    # Nothing of it is left in Adam's moments: the next step is an ordinary one.
    optimizer._communicator = SerialCommunicator()
    optimizer.zero()
    backward(actor, critic)
    optimizer.reduce()
    assert optimizer.step({"actor": 2.0, "critic": 2.0}) > 0
    assert bool(torch.isfinite(optimizer.parameters).all())
    assert not torch.equal(optimizer.parameters, before)


def test_a_network_without_samples_stays_where_it_is():
    actor, critic, optimizer = make()
    before = actor.weight.clone()
    optimizer.zero()
    critic(torch.ones(1, 3)).sum().backward()
    optimizer.reduce()
    optimizer.step({"actor": 0.0, "critic": 1.0})
    assert torch.equal(actor.weight, before)


def test_what_was_saved_goes_on_as_if_nothing_had_happened():
    def steps(parts, count):
        actor, critic, optimizer = parts
        for _ in range(count):
            optimizer.zero()
            backward(actor, critic)
            optimizer.reduce()
            optimizer.step({"actor": 2.0, "critic": 2.0})

    undisturbed, stopped, resumed = make(), make(), make()
    steps(undisturbed, 6)
    steps(stopped, 4)
    stopped[2].skipped = 3
    saved = {name: tensor.clone() for name, tensor in stopped[2].state_dict().items()}
    resumed[2].load_state_dict(saved)
    resumed[2].parameters.copy_(stopped[2].parameters)
    assert resumed[2].skipped == 3
    steps(resumed, 2)
    assert torch.equal(resumed[2].parameters, undisturbed[2].parameters)
    # Loading copies: what was saved is not written to.
    assert torch.equal(saved["exp_avg"], stopped[2].state_dict()["exp_avg"])


def test_a_state_from_before_the_first_step_forgets_the_moments():
    fresh, used = make()[2], make()
    used[2].zero()
    backward(used[0], used[1])
    used[2].step({"actor": 1.0, "critic": 1.0})
    used[2].load_state_dict(fresh.state_dict())
    assert used[2].state_dict().keys() == {"skipped"}


def test_a_state_of_other_networks_is_refused():
    actor, critic, optimizer = make()
    backward(actor, critic)
    optimizer.step({"actor": 1.0, "critic": 1.0})
    state = optimizer.state_dict()
    with pytest.raises(ValueError, match="parameters"):
        make()[2].load_state_dict({**state, "exp_avg": state["exp_avg"][:-1]})
    with pytest.raises(KeyError):
        make()[2].load_state_dict({})


def test_the_learning_rate_can_be_changed():
    actor, critic, optimizer = make(learning_rate=0.1)
    optimizer.set_learning_rate(0.0)
    before = optimizer.parameters.clone()
    backward(actor, critic)
    optimizer.step({"actor": 1.0, "critic": 1.0})
    assert optimizer.learning_rate == 0.0
    assert torch.equal(optimizer.parameters, before)


def test_a_step_does_not_load_the_compiler():
    script = (
        "import sys, torch\n"
        "from marl.distributed.communicators import SerialCommunicator\n"
        "from marl.learning.replicated_adam import ReplicatedAdam\n"
        "weights = {'weights': [torch.nn.Parameter(torch.ones(2))]}\n"
        "options = dict(learning_rate=0.1, epsilon=1e-5, max_gradient_norm=1.0, bookkeeping=0)\n"
        "ReplicatedAdam(weights, SerialCommunicator(), **options).step({'weights': 1.0})\n"
        "assert not {'torch._dynamo', 'torch._inductor', 'sympy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


def skip(optimizer, actor, critic, steps):
    for _ in range(steps):
        optimizer.zero()
        backward(actor, critic, scale=float("nan"))
        optimizer.reduce()
        optimizer.step({"actor": 1.0, "critic": 1.0})


def test_many_skipped_steps_in_a_row_are_told_in_one_line_and_end_the_run_at_the_limit(capsys):
    actor, critic, optimizer = make()
    skip(optimizer, actor, critic, 19)
    assert capsys.readouterr().err == ""
    skip(optimizer, actor, critic, 1)
    told = capsys.readouterr().err
    assert "20 gradient steps in a row were skipped" in told
    assert told.count("\n") == 1
    skip(optimizer, actor, critic, 479)
    with pytest.raises(InputError, match="the last 500 gradient steps were skipped"):
        skip(optimizer, actor, critic, 1)
    assert capsys.readouterr().err == ""


def test_one_good_step_begins_the_count_of_skipped_steps_anew_and_a_checkpoint_keeps_it():
    actor, critic, optimizer = make()
    skip(optimizer, actor, critic, 499)
    resumed = make()
    resumed[2].load_state_dict(optimizer.state_dict())
    with pytest.raises(InputError):
        skip(resumed[2], *resumed[:2], 1)
    optimizer.zero()
    backward(actor, critic)
    optimizer.reduce()
    optimizer.step({"actor": 1.0, "critic": 1.0})
    skip(optimizer, actor, critic, 499)
    assert optimizer.skipped == 998
