"""Factory."""

from __future__ import annotations

from marl.adders.base import ReplayAdder
from marl.adders.sequences import SequenceAdder
from marl.adders.transitions import TransitionAdder
from marl.replay import Replay, TransitionItems


def make_replay_adder(replay: Replay, *, discount: float) -> ReplayAdder:
    """The adder that makes the replay's items.

    Args:
        replay: where the items go.
        discount: the discount factor gamma of one step.

    Raises:
        InputError: the discount factor is outside [0, 1].
    """
    if isinstance(replay.items, TransitionItems):
        return TransitionAdder(replay, discount=discount)
    return SequenceAdder(replay, discount=discount)
