"""A vote to stop travels with the gradients, through whatever the communicator is wrapped in."""

import torch
from torch import nn

from marl.distributed.communicators import DelegatingCommunicator, SerialCommunicator
from marl.distributed.stop_vote import StopVote
from marl.learning.replicated_adam import ReplicatedAdam


def optimizer_of(communicator):
    return ReplicatedAdam(
        {"layer": list(nn.Linear(2, 1).parameters())},
        communicator,
        learning_rate=1e-3,
        epsilon=1e-8,
        max_gradient_norm=1.0,
        bookkeeping=1,
    )


def test_a_vote_is_passed_once_it_was_requested_and_then_stays():
    vote = StopVote(SerialCommunicator())
    optimizer = optimizer_of(vote)
    outcomes = []
    for requested in (False, True, False):
        vote.requested = requested
        optimizer.zero()
        optimizer.tail.fill_(3.0)
        optimizer.reduce()
        outcomes.append(vote.passed)
        assert optimizer.tail.tolist() == [3.0]
    assert outcomes == [False, True, True]


def test_a_communicator_that_delegates_passes_votes_on():
    vote = StopVote(SerialCommunicator())
    optimizer = optimizer_of(DelegatingCommunicator(vote))
    vote.requested = True
    optimizer.zero()
    optimizer.reduce()
    assert vote.passed


def test_without_a_vote_nothing_is_written():
    element = torch.zeros(1)
    communicator = SerialCommunicator()
    communicator.cast_vote(element)
    communicator.read_vote(element)
    assert element.tolist() == [0.0]
