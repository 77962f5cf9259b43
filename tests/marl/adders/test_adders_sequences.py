from collections import Counter

import numpy as np
import pytest
from scripted_steps import GAMMA, GROUPS, SPEC, Script, everything

from marl.adders.sequences import SequenceAdder
from marl.replay import (
    Replay,
    SequenceItems,
)


@pytest.mark.parametrize(
    "items",
    [
        SequenceItems(length=6),
        SequenceItems(length=9),
        SequenceItems(length=1),
        SequenceItems(length=4, burn_in=1),
        SequenceItems(length=4, burn_in=3),
        SequenceItems(length=4, period=2),
        SequenceItems(length=5, period=1, burn_in=2),
    ],
)
def test_sequences_are_pieces_of_episodes(items):
    steps, num_envs = 60, 4
    script = Script(0, num_envs, steps)
    replay = Replay(SPEC, items, capacity=10_000, num_envs=num_envs)
    script.play(SequenceAdder(replay, discount=GAMMA), 0, steps)
    fields, envs, _ = everything(replay)
    learned, whole = Counter(), 0
    row_of = {tuple(row["seen"]["state"]): (trace, k) for trace in script.traces for k, row in enumerate(trace.rows)}
    for i, copy in enumerate(envs):
        trace, start = row_of[tuple(fields["state"][i, 0])]
        assert trace is script.traces[copy]
        length = int(fields["valid"][i].sum())
        assert length >= 1
        assert fields["valid"][i, :length].all()
        from_start = trace.rows[start]["first"]
        whole += bool(from_start and trace.rows[start + length - 1]["ended"])
        for t in range(length):
            row = trace.rows[start + t]
            assert row["ended"] <= (t == length - 1)
            assert fields["learn"][i, t] == (from_start or t >= items.burn_in)
            learned[copy, start + t] += int(fields["learn"][i, t])
            check_sequence_step(fields, i, t, row)
        assert length == items.length or trace.rows[start + length - 1]["ended"]
        assert not fields["learn"][i, length:].any()
        assert not fields["left/rewards"][i, length:].any()
        assert not fields["left/active"][i, length + 1 :].any()
        assert fields["left/action_masks"][i, length + 1 :].all()
    if items.period is None:
        assert set(learned.values()) == {1}
    # Everything is there but the unfinished ends.
    for copy in range(num_envs):
        last = max(k for c, k in learned if c == copy)
        assert last >= steps - 1 - items.length
        assert all(learned[copy, k] >= 1 for k in range(last + 1))
    if items.length >= 6:
        assert whole == len(envs)


def check_sequence_step(fields, i, t, row):
    for name, agents in GROUPS.items():
        np.testing.assert_array_equal(fields[f"{name}/observations"][i, t], row["seen"][name])
        np.testing.assert_array_equal(fields[f"{name}/observations"][i, t + 1], row["after"][name])
        np.testing.assert_array_equal(fields[f"{name}/active"][i, t], row["active"][list(agents)])
        np.testing.assert_array_equal(fields[f"{name}/active"][i, t + 1], row["after_active"][list(agents)])
        np.testing.assert_array_equal(fields[f"{name}/rewards"][i, t], row["rewards"][list(agents)])
        counts = row["active"] & ~row["terminated"]
        np.testing.assert_allclose(fields[f"{name}/discounts"][i, t], GAMMA * counts[list(agents)])
    np.testing.assert_array_equal(fields["left/action_masks"][i, t], row["seen"]["masks"])
    np.testing.assert_array_equal(fields["left/action_masks"][i, t + 1], row["after"]["masks"])
    np.testing.assert_array_equal(fields["left/actions"][i, t], row["actions"][0][:2])
    np.testing.assert_array_equal(fields["state"][i, t + 1], row["after"]["state"])
    remains = not row["ended"] or (row["truncated"] & ~row["terminated"]).any()
    assert fields["discounts"][i, t] == pytest.approx(GAMMA * remains)
