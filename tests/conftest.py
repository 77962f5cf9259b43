"""Settings of all tests."""

import os

# Small tensors gain nothing from threads, and lose much where two test processes fight for the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from hypothesis import settings

torch.set_num_threads(1)

# The same examples everywhere, none remembered in the folder, and no example asserted to be fast.
settings.register_profile("marl", deadline=None, derandomize=True, database=None)
settings.load_profile("marl")
