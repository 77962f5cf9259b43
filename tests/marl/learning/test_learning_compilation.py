"""Compiling: the same numbers, for each combination of shapes, and going on where the compiler fails."""

import pytest
import torch
from torch import nn

from marl.learning import compilation
from marl.learning.compilation import Compiled, can_compile, compiled_gradients, compiled_module

needs_compiler = pytest.mark.skipif(not can_compile(torch.device("cpu")), reason="no C++ compiler")


class Loss(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x, weights):
        errors = (self.linear(x).tanh() * weights.unsqueeze(-1)).square().sum()
        return errors, weights.sum().unsqueeze(0)


@needs_compiler
def test_compiled_gradients_are_added_and_follow_the_parameters():
    torch.manual_seed(0)
    loss = Loss()
    for parameter in loss.parameters():
        parameter.grad = torch.ones_like(parameter)
    add = compiled_gradients(loss, threads=1)
    for rows in (4, 7):  # one function for each shape
        x, weights = torch.randn(rows, 3), torch.rand(rows)
        before = [parameter.grad.clone() for parameter in loss.parameters()]
        (metrics,) = add(x, weights)
        value, expected_metrics = loss(x, weights)
        gradients = torch.autograd.grad(value, list(loss.parameters()))
        torch.testing.assert_close(metrics, expected_metrics)
        for parameter, start, gradient in zip(loss.parameters(), before, gradients, strict=True):
            torch.testing.assert_close(parameter.grad, start + gradient)
        with torch.no_grad():
            loss.linear.weight += 0.5


@needs_compiler
def test_gradients_of_chosen_parameters_leave_the_others_alone():
    torch.manual_seed(0)
    loss = Loss()
    loss.linear.bias.grad = torch.zeros(2)
    add = compiled_gradients(loss, [loss.linear.bias], threads=1)
    x, weights = torch.randn(4, 3), torch.rand(4)
    add(x, weights)
    (expected,) = torch.autograd.grad(loss(x, weights)[0], [loss.linear.bias])
    torch.testing.assert_close(loss.linear.bias.grad, expected)
    assert loss.linear.weight.grad is None


@needs_compiler
def test_a_compiled_module_reads_parameters_that_moved_after_it_was_made():
    module = nn.Linear(2, 2)
    call = compiled_module(module, threads=1)
    module.weight.data = torch.zeros(2, 2)
    x = torch.ones(1, 2)
    with torch.no_grad():
        torch.testing.assert_close(call(x), module(x))
        module.weight += 1.0
        torch.testing.assert_close(call(x), module(x))


def test_where_the_compiler_fails_the_plain_function_runs(monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("Python.h: no such file\nand more")

    monkeypatch.setattr(compilation, "compile_function", fail)
    double = Compiled(lambda x: (2 * x,))
    with pytest.warns(RuntimeWarning, match=r"failed \(Python.h: no such file\); this runs without it"):
        (result,) = double(torch.ones(2))
    assert result.tolist() == [2.0, 2.0]
    assert double(torch.ones(2))[0].tolist() == [2.0, 2.0]
