"""Replay: joint steps of all groups, kept in preallocated records and sampled by global counts.

One item, a transition or a sequence of steps, is one packed record: the arrays of all groups, of the state and of
the masks, one after the other, typed by the environment's spec. Records lie in rows of environment copies,
``(rows, E, record)``, so that an insert writes one contiguous row and a sample is one gather.

Capacity and batch size are global. A rank holds the records of its own copies, each copy in a ring of its own, but
every rank knows how many items every copy has stored. So all ranks draw the same global batch of (copy, item) pairs,
and each returns those whose copy it holds: together they are what one rank would have drawn, bit by bit.
"""

from __future__ import annotations

from marl.replay.config import ReplayConfig
from marl.replay.datasets import ReplayDataset, SequenceDataset, TransitionDataset
from marl.replay.items import (
    GroupSequences,
    GroupTransitions,
    Items,
    SequenceItems,
    Sequences,
    TransitionItems,
    Transitions,
)
from marl.replay.layout import Layout, Staging, item_layout
from marl.replay.selectors import FifoSelector, Priorities, PrioritizedSelector, Selection, Selector, UniformSelector
from marl.replay.storage import Replay

__all__ = [
    "FifoSelector",
    "GroupSequences",
    "GroupTransitions",
    "Items",
    "Layout",
    "Priorities",
    "PrioritizedSelector",
    "Replay",
    "ReplayConfig",
    "ReplayDataset",
    "Selection",
    "Selector",
    "SequenceDataset",
    "SequenceItems",
    "Sequences",
    "Staging",
    "TransitionDataset",
    "TransitionItems",
    "Transitions",
    "UniformSelector",
    "item_layout",
]
