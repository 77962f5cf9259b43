"""Jobs that would hang for ever: the late rank is named, its stack is written, and the job ends."""

import sys
from pathlib import Path

import pytest
from jobs import LAUNCH, clean_environment, run_limited

from marl.launchers.supervision.diagnosis import Verdict, read_frame

JOB = Path(__file__).with_name("hanging_job.py")


def hang(way: str, folder: Path):
    command = [sys.executable, "-c", LAUNCH, "2", sys.executable, str(JOB), way, str(folder)]
    return run_limited(command, clean_environment(2), 90)


def test_an_endless_step_is_named_with_its_line(tmp_path):
    done = hang("endless", tmp_path)
    assert done.code == 1
    assert Verdict.load(tmp_path).late == (1,)
    assert "rank 1 is late, in its own work since update 5; rank 0 is waiting in all_reduce of 16 bytes" in done.stderr
    assert "hanging_job.py" in read_frame(tmp_path, 1)
    assert "in endless_step" in read_frame(tmp_path, 1)
    assert "in all_reduce" in read_frame(tmp_path, 0)


def test_a_stopped_rank_is_named_and_writes_where_it_was_stopped(tmp_path):
    done = hang("stopped", tmp_path)
    assert done.code == 1
    assert Verdict.load(tmp_path).late == (1,)
    assert "rank 1 is stopped by a signal (SIGSTOP)" in done.stderr
    assert "in main" in read_frame(tmp_path, 1)


def test_a_rank_that_takes_long_to_end_is_waited_for_by_those_within_a_collective(tmp_path):
    done = hang("slow-end", tmp_path)
    assert (done.code, done.stderr) == (2, "marl: the disk is full\n")
    assert Verdict.load(tmp_path) is None


@pytest.mark.timeout(120)
def test_collectives_out_of_step_are_named(tmp_path):
    done = hang("out-of-step", tmp_path)
    assert done.code == 1
    # Where MPI itself notices that messages do not fit together, it ends the job before the watchdog.
    verdict = Verdict.load(tmp_path)
    if verdict is not None:
        assert "out of step: rank 0 is in all_reduce of 16 bytes, rank 1 is in broadcast of 8 bytes" in verdict.reason
