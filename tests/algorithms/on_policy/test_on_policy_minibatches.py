"""Minibatches are even everywhere, random, and the same for any split over ranks."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from marl.algorithms.on_policy.minibatches import assign
from marl.distributed.communicators import split
from marl.random_streams import Stream


def assignment(first, count, *, units, minibatches, draw=1, seed=0):
    stream = Stream(seed, "minibatches", first_env=first, num_envs=count)
    return assign(stream, draw, units=units, first_env=first, num_envs=count, minibatches=minibatches)


@given(units=st.integers(1, 12), envs=st.integers(1, 9), minibatches=st.integers(1, 12), ranks=st.integers(1, 4))
def test_minibatches_are_even_and_do_not_depend_on_ranks(units, envs, minibatches, ranks):
    whole = assignment(0, envs, units=units, minibatches=minibatches)
    assert whole.shape == (units, envs)
    assert 0 <= whole.min() <= whole.max() < minibatches
    for part in (whole, *whole.unbind(1)):
        counts = torch.bincount(part.flatten(), minlength=minibatches)
        assert counts.max() - counts.min() <= 1
    shares = [assignment(*split(envs, ranks, rank), units=units, minibatches=minibatches) for rank in range(ranks)]
    assert torch.equal(torch.cat(shares, dim=1), whole)
    for share in shares:
        counts = torch.bincount(share.flatten(), minlength=minibatches)
        assert counts.max() - counts.min() <= 1


def test_none_is_empty_while_there_are_enough_units():
    assert assignment(0, 2, units=2, minibatches=4).flatten().sort().values.tolist() == [0, 1, 2, 3]


def test_each_draw_and_each_seed_cuts_anew():
    one = assignment(0, 8, units=20, minibatches=4)
    assert torch.equal(one, assignment(0, 8, units=20, minibatches=4))
    assert not torch.equal(one, assignment(0, 8, units=20, minibatches=4, draw=2))
    assert not torch.equal(one, assignment(0, 8, units=20, minibatches=4, seed=1))


@pytest.mark.parametrize("unit", [0, 7, 19])
def test_each_unit_is_equally_often_in_each_minibatch(unit):
    drawn = [assignment(0, 4, units=20, minibatches=4, draw=draw)[unit] for draw in range(250)]
    counts = torch.bincount(torch.stack(drawn).flatten(), minlength=4)
    # 1000 draws with probability 1/4: five standard deviations are 68.
    assert (counts - 250).abs().max() < 68
