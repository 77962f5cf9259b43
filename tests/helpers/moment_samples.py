"""Random samples for tests of moments and normalizers."""

import torch
from hypothesis import strategies as st
from torch import Tensor


def samples(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


batches = st.lists(st.integers(0, 9), min_size=1, max_size=5)
