"""Speed and memory of a run."""

import mmap

import pytest

from marl.counters import Counter
from marl.distributed.communicators import SerialCommunicator
from marl.experiments.resource_usage import MACHINE, Usage, resident_bytes


def test_memory_that_is_taken_is_seen():
    before = resident_bytes()
    # Straight from the system: an allocator may hand out memory that it already holds.
    with mmap.mmap(-1, 32_000_000) as taken:
        taken.write(b"1" * len(taken))
        assert resident_bytes() - before >= 0.9 * len(taken)


def test_without_proc_the_most_ever_held_is_told(monkeypatch):
    here = resident_bytes()

    def missing(path):
        raise FileNotFoundError(path)

    monkeypatch.setattr("marl.experiments.resource_usage.Path.read_bytes", missing)
    assert here / 2 < resident_bytes() < here * 10


def test_a_row_has_the_speed_since_the_row_before_and_the_memory_of_the_largest_rank():
    class Two(SerialCommunicator):
        def all_reduce(self, tensor, operation="sum"):
            assert operation == "max"
            tensor.fill_(123_000_000)

    now = [10.0]
    counter = Counter(clock=lambda: now[0])
    counter.env_steps = 100
    usage = Usage(counter, Two())
    for steps, seconds, rate in ((300, 4.0, 50.0), (310, 1.0, 10.0)):
        counter.env_steps, now[0] = steps, now[0] + seconds
        row = usage.row()
        assert row["env_steps_per_second"] == pytest.approx(rate)
        assert row["memory_mb"] == 123
        assert row["env_steps"] == steps
        assert set(MACHINE) <= row.keys()
