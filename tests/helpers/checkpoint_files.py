"""Tensors for tests of checkpoints, and comparisons of them."""

import torch

TENSORS = {
    "learner.weight": torch.randn(3, 4),
    "learner.transposed": torch.randn(2, 5).T,
    "learner.scalar": torch.tensor(2.5),
    "learner.wide": torch.randn(3, dtype=torch.float64),
    "learner.narrow": torch.randn(5).bfloat16(),
    "learner.half": torch.randn(5).half(),
    "copies.empty": torch.zeros(0, 7),
    "copies.flags": torch.tensor([True, False, True]),
    "copies.bytes": torch.arange(5, dtype=torch.uint8),
    "copies.counts": torch.tensor([2**62, -1]),
    "copies.seeds": torch.tensor([2**32 - 1], dtype=torch.uint32),
}


def equal(left, right):
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype
        and left[name].shape == right[name].shape
        and torch.equal(left[name], right[name])
        for name in left
    )


def no_warning(line):
    raise AssertionError(line)
