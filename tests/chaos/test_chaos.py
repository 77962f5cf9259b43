"""Short forms of ``make chaos``: whatever is killed or damaged, nothing is lost."""

import os
import sys

import pytest
from chaos import damage_checkpoints, kill_writers, soak

linux = pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")


@linux
@pytest.mark.timeout(900)
def test_ten_kills_at_random_lose_nothing(tmp_path, monkeypatch):
    for name in (*os.environ,):
        if name.startswith(("OMPI_COMM", "PMI_", "MARL_")):
            monkeypatch.delenv(name)
    figures = soak(tmp_path, 10, seed=1, per_run=5)
    assert figures.problems == []
    assert sum(figures.kills.values()) == 10
    assert figures.identical == figures.runs


def test_a_killed_writer_leaves_its_last_whole_checkpoint(tmp_path):
    figures = kill_writers(tmp_path, 60, seed=1)
    assert figures["problems"] == []
    assert figures["within a checkpoint"] > 0


def test_every_damage_is_found_and_the_checkpoint_before_is_taken(tmp_path):
    figures = damage_checkpoints(tmp_path, 150, seed=1)
    assert figures["problems"] == []
    assert set(figures["by kind"]) == {"bit", "cut", "swap", "exchange"}
