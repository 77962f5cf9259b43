"""marl: multi-agent reinforcement learning from small parts, on PettingZoo, PyTorch and MPI."""

from __future__ import annotations

__version__ = "0.1.0"
