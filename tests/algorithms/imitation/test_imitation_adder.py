"""Decisions that count go to reservoirs; everything goes on to the adder within."""

import torch

from marl.algorithms.imitation.adder import ReservoirAdder
from marl.core import Adder
from marl.types import GroupStep, TimeStep


class Recorded:
    """A reservoir that keeps what it is given."""

    def __init__(self):
        self.added = []

    def add(self, observations, action_masks, actions, counted):
        self.added.append((observations.tolist(), action_masks, actions.tolist(), counted.tolist()))


class Counted(Adder):
    """An adder that counts its calls."""

    def __init__(self):
        self.calls = []

    def add_first(self, timestep):
        self.calls.append("first")

    def add(self, actions, extras, timestep):
        self.calls.append("step")


def test_flagged_decisions_of_active_agents_are_added_with_what_was_observed_before_them():
    observations, active = torch.zeros(2, 1, 1), torch.tensor([[True], [False]])
    step = GroupStep(
        observations=observations,
        action_masks=None,
        active=active,
        rewards=torch.zeros(2, 1),
        terminated=torch.zeros(2, 1, dtype=torch.bool),
        truncated=torch.zeros(2, 1, dtype=torch.bool),
    )
    timestep = TimeStep(groups={"agent": step}, state=None, first=torch.ones(2, dtype=torch.bool), final=None)
    inner, reservoir = Counted(), Recorded()
    adder = ReservoirAdder(inner, {"agent": reservoir}, flag="best")
    adder.add_first(timestep)
    observations += 7.0  # as an environment writes over what it returned
    extras = {"agent": {"best": torch.tensor([[True], [True]])}}
    adder.add({"agent": torch.tensor([[1], [2]])}, extras, timestep)
    adder.add({"agent": torch.tensor([[3], [4]])}, extras, timestep)
    assert inner.calls == ["first", "step", "step"]
    assert reservoir.added == [
        ([[[0.0]], [[0.0]]], None, [[1], [2]], [[True], [False]]),
        ([[[7.0]], [[7.0]]], None, [[3], [4]], [[True], [False]]),
    ]
