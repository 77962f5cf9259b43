"""Uniform numbers and dtypes for tests of distributions."""

import math

import pytest
import torch
from torch import Tensor

from marl.random_streams import Stream

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


LEAST, MOST = 2.0**-24, 1.0 - 2.0**-24


def uniforms(*shape: int) -> Tensor:
    return Stream(1, "test", num_envs=math.prod(shape[:-1])).uniforms(0, shape[-1]).view(shape)
