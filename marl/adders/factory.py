"""The choice of the adder that makes a replay's items."""

from __future__ import annotations

from marl.adders.base import ReplayAdder
from marl.adders.sequences import SequenceAdder
from marl.adders.transitions import TransitionAdder
from marl.adders.turns import TurnAdder
from marl.replay import Replay, TransitionItems


def make_replay_adder(replay: Replay, *, discount: float) -> ReplayAdder:
    """Makes the adder for a replay's items and its environment.

    Args:
        replay: stores the items.
        discount: the discount factor gamma of one step, or in turn-based games of one turn of an agent.

    Raises:
        InputError: the discount factor is outside [0, 1].
    """
    if replay.spec.turn_based:
        return TurnAdder(replay, discount=discount)
    if isinstance(replay.items, TransitionItems):
        return TransitionAdder(replay, discount=discount)
    return SequenceAdder(replay, discount=discount)
