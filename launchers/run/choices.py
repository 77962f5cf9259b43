"""Choices that several commands offer, by the words that are typed."""

from __future__ import annotations

from typing import Literal

ActionSelection = Literal["greedy", "sampled"]
"""Policies take their best action, or draw one as in training."""
Backend = Literal["pettingzoo", "batched"]
"""The unmodified environment, or its equal on tensors if there is one."""
