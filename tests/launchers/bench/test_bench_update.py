"""The floor of ``marl bench update`` is what torch itself counts, and rows are like those of the other benchmarks."""

import json

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from marl.errors import InputError
from marl.launchers.bench.update import products_of, repeat_products, run
from marl.learning.compilation import can_compile
from marl.testing.threads import run_on_threads


def train_a_little():
    network = nn.Sequential(nn.Linear(18, 64), nn.ReLU(), nn.Linear(64, 5))
    network(torch.randn(32, 3, 18)).square().mean().backward()
    with torch.inference_mode():
        network(torch.randn(7, 18))
    (torch.randn(3, 4, 5) @ torch.randn(3, 5, 6)).sum()


def test_products_are_those_that_torch_counts():
    with FlopCounterMode(display=False) as counted:
        train_a_little()
    assert products_of(train_a_little).operations == counted.get_total_flops() > 0


def test_products_are_known_from_their_shapes():
    weights = torch.randn(64, 18)
    noted = products_of(lambda: [torch.nn.functional.linear(torch.randn(32, 18), weights) for _ in range(3)])
    assert list(noted.products.values()) == [3]
    assert noted.operations == 3 * 2 * 32 * 18 * 64


def test_the_same_products_are_done_again():
    noted = products_of(train_a_little)
    assert products_of(repeat_products(noted.products)).products == noted.products


@pytest.mark.parametrize("algorithm", ["vdn", "matd3"])
def test_an_algorithm_gives_a_row_and_another_where_it_compiles(marl, algorithm):
    done = marl("bench", "update", "--algorithm", algorithm, "--rounds", 1, "--seconds", 0.01)
    assert (done.code, done.stderr) == (0, "")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    compiles = can_compile(torch.device("cpu"))
    assert [row["name"] for row in rows] == [f"update/{algorithm}", f"update/{algorithm}/compiled"][: 1 + compiles]
    for row in rows:
        assert set(row) == {"name", "value", "unit", "reference", "ratio"}
        assert row["unit"] == "ms"
        assert min(row["value"], row["reference"]) > 0


def test_an_unknown_algorithm_is_refused(refused):
    assert "did you mean 'qmix'?" in refused("bench", "update", "--algorithm", "qmux")


def test_several_ranks_are_refused():
    with pytest.raises(InputError, match="leave --ranks out"):
        run_on_threads(2, lambda communicator: list(run(communicator)))
