"""Everything that trains can be on another device; tried on a pretended one, and on a GPU where there is one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("device_cases.py")
SPREAD, KUHN = "mpe2.simple_spread_v3", "openspiel/kuhn_poker"
FEW = [
    f"recurrent mappo on {SPREAD}, pettingzoo",
    f"qmix on {SPREAD}, pettingzoo",
    f"mappo on {SPREAD}, batched",
    f"masac on {SPREAD}, batched",
    f"iql on {KUHN}, batched",
]


def results(*cases):
    done = subprocess.run([sys.executable, PROGRAM, *cases], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def check(found):
    for case, distances in found.items():
        assert isinstance(distances, dict), f"{case}: {distances}"
        # Sums of rows are taken in another order there, and twenty steps of Adam make more of that.
        assert max(distances.values()) < 1e-5, case


def test_algorithms_train_on_another_device_and_checkpoints_go_on_on_either():
    found = results(*FEW)
    assert sorted(found) == sorted(FEW)
    check(found)


@pytest.mark.slow
def test_all_algorithms_train_on_another_device_and_checkpoints_go_on_on_either():
    found = results()
    assert len(found) >= 34
    check(found)
