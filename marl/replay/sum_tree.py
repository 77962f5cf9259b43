"""Trees of sums or minima over replay items, one tree an environment copy, all of them updated and searched at once."""

from __future__ import annotations

from typing import Literal

import numpy as np

from marl.types import Floats, Integers


class SegmentTrees:
    """E complete binary trees over ``leaves`` values each; a node holds the sum, or the minimum, of its children.

    A node is always recomputed from its children, so rounding does not accumulate, and a tree depends only on its
    own leaves: it is the same whichever rank holds it.

    Args:
        count: number of trees, E.
        leaves: leaves a tree.
        operation: ``sum`` (empty leaves are 0) or ``min`` (empty leaves are infinite).
    """

    def __init__(self, count: int, leaves: int, operation: Literal["sum", "min"] = "sum") -> None:
        self._combine = np.add if operation == "sum" else np.minimum
        self._depth = max(leaves - 1, 0).bit_length()
        self._base = 1 << self._depth
        # Node 1 is the root, node i's children are 2i and 2i + 1.
        self._nodes = np.full((count, 2 * self._base), 0.0 if operation == "sum" else np.inf)
        self._leaves = leaves

    @property
    def roots(self) -> Floats:
        """(E,) float64: the sum, or the minimum, of every tree."""
        return self._nodes[:, 1]

    @property
    def leaves(self) -> Floats:
        """(E, leaves) float64, a view."""
        return self._nodes[:, self._base : self._base + self._leaves]

    def set(self, trees: Integers, leaves: Integers, values: Floats) -> None:
        """Sets leaves; of several values for one leaf the last counts.

        Args:
            trees: (K,) int64.
            leaves: (K,) int64.
            values: (K,) float64.
        """
        flat, roots, nodes = self._nodes.reshape(-1), trees * (2 * self._base), leaves + self._base
        flat[roots + nodes] = values
        for _ in range(self._depth):
            left = roots + (nodes & -2)
            nodes = nodes >> 1
            flat[roots + nodes] = self._combine(flat.take(left), flat.take(left + 1))

    def set_all(self, leaves: Floats) -> None:
        """Sets all leaves of all trees, (E, leaves) float64."""
        self.leaves[...] = leaves
        for level in reversed(range(self._depth)):
            width = 1 << level
            children = self._nodes[:, 2 * width : 4 * width]
            self._nodes[:, width : 2 * width] = self._combine(children[:, ::2], children[:, 1::2])

    def find(self, trees: Integers, values: Floats) -> Integers:
        """In trees of sums: the first leaf at which the running sum exceeds the value.

        A leaf of value 0 is never found unless its whole tree is 0, however the sums were rounded.

        Args:
            trees: (K,) int64.
            values: (K,) float64 in [0, root).

        Returns:
            (K,) int64 leaves.
        """
        found = self._descend(trees, values)
        # Rounding may lead past the last leaf that holds something; that is rare, so it is corrected afterwards.
        empty = np.flatnonzero(self._nodes[trees, found + self._base] <= 0)
        if len(empty):
            found[empty] = self._descend(trees[empty], values[empty], careful=True)
        return found

    def _descend(self, trees: Integers, values: Floats, *, careful: bool = False) -> Integers:
        flat, roots = self._nodes.reshape(-1), trees * (2 * self._base)
        nodes, values = np.ones(len(trees), np.int64), values.copy()
        for _ in range(self._depth):
            nodes <<= 1
            left = flat.take(roots + nodes)
            right = values >= left
            if careful:
                right &= flat.take(roots + nodes + 1) > 0
            values -= left * right
            nodes += right
        return nodes - self._base
