"""marl: multi-agent reinforcement learning from small parts, on PettingZoo, PyTorch and MPI."""

__version__ = "0.1.0"
