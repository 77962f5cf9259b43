import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from marl.replay.sum_tree import SegmentTrees


@given(st.integers(1, 70), st.integers(1, 3), st.data())
@settings(max_examples=50)
def test_trees_agree_with_plain_sums_minima_and_searches(leaves, count, data):
    sums, minima = SegmentTrees(count, leaves, "sum"), SegmentTrees(count, leaves, "min")
    plain = np.zeros((count, leaves))
    random = np.random.default_rng(data.draw(st.integers(0, 1000)))
    for _ in range(4):
        trees, places = random.integers(0, count, 9), random.integers(0, leaves, 9)
        values = np.where(random.random(9) < 0.2, 0.0, random.integers(0, 100, 9).astype(float))
        for tree, place, value in zip(trees, places, values, strict=True):
            plain[tree, place] = value
        sums.set(trees, places.copy(), values)
        minima.set(trees, places.copy(), np.where(values > 0, values, np.inf))
    np.testing.assert_array_equal(sums.leaves, plain)
    np.testing.assert_array_equal(sums.roots, plain.sum(axis=1))
    np.testing.assert_array_equal(minima.roots, np.where(plain > 0, plain, np.inf).min(axis=1))
    for tree in range(count):
        if total := plain[tree].sum():
            values = random.uniform(0, total, 20)
            found = sums.find(np.full(20, tree), values)
            np.testing.assert_array_equal(found, np.searchsorted(np.cumsum(plain[tree]), values, side="right"))
            assert plain[tree, sums.find(np.array([tree]), np.array([total * 2]))] > 0
    copied = SegmentTrees(count, leaves, "sum")
    copied.set_all(plain)
    np.testing.assert_array_equal(copied._nodes, sums._nodes)
