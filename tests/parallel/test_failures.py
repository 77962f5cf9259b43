"""How jobs end. A job that hangs fails its test by the time limit."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from jobs import LAUNCH, clean_environment, run_limited
from leaving_job import WAYS

JOB = Path(__file__).with_name("failing_job.py")
LEAVING = Path(__file__).with_name("leaving_job.py")


def launched(ranks: int, way: str, job: Path = JOB):
    """Runs the job as ``marl … --ranks`` does."""
    command = [sys.executable, "-c", LAUNCH, str(ranks), sys.executable, str(job), way]
    return run_limited(command, clean_environment(ranks), 60)


def test_wrong_input_on_all_ranks_is_one_line_and_code_2():
    done = launched(3, "input-everywhere")
    assert (done.code, done.stderr) == (2, "marl: no environment called mpe2.simple_spred_v3\n")


def test_wrong_input_on_one_rank_ends_the_job_too():
    done = launched(2, "input-on-one")
    assert (done.code, done.stderr) == (2, "marl: no such file on this host\n")


def test_a_raising_rank_ends_the_job_with_its_traceback():
    done = launched(3, "error-on-one")
    assert done.code == 1
    lines = done.stderr.splitlines()
    assert lines[0] == "[rank 2] Traceback (most recent call last):"
    assert lines[-1] == "[rank 2] RuntimeError: the environment broke"
    assert all(line.startswith("[rank 2] ") for line in lines)


def test_plain_mpirun_ends_as_well(mpirun):
    done = mpirun(2, JOB, "error-on-one", timeout=60)
    assert done.code == 1
    assert done.stderr.count("[rank 1] RuntimeError: the environment broke") == 1


def test_the_same_error_everywhere_is_printed_once():
    done = launched(2, "error-everywhere")
    assert done.code == 1
    assert done.stderr.count("Traceback") == 1
    assert "[rank 0] RuntimeError: the environment broke" in done.stderr


def test_different_errors_are_all_printed():
    done = launched(2, "different-errors")
    assert done.code == 1
    assert "[rank 0] RuntimeError: trouble on zero" in done.stderr
    assert "[rank 1] ZeroDivisionError: trouble elsewhere" in done.stderr


def test_an_error_after_the_others_finished_is_still_an_error():
    done = launched(2, "error-after-others-finished")
    assert done.code == 1
    assert done.stderr.count("[rank 1] RuntimeError: the environment broke") == 1


def test_a_rank_that_leaves_early_ends_the_job():
    done = launched(2, "exit-on-one")
    assert done.code == 1
    assert re.fullmatch(r"marl: rank 1: \S+, line \d+, called sys.exit\(3\) before the work was done\n", done.stderr)


@pytest.mark.parametrize(
    "way",
    [
        *(f"{way} everywhere" for way in ("sys.exit(0)", "os._exit(0)", "exec", "C exit(0)")),
        *(pytest.param(way, marks=[] if way in ("sys.exit(2)", "os._exit(0)") else pytest.mark.slow) for way in WAYS),
    ],
)
def test_no_way_to_leave_before_the_work_is_done_counts_as_success(way):
    done = launched(2, way, LEAVING)
    assert done.code == 1
    assert done.stderr


def test_a_request_to_stop_does_not_reach_a_rank_that_has_done_its_work():
    done = launched(2, "asked-at-the-end")
    assert (done.code, done.stderr) == (0, "")


def test_a_killed_rank_ends_the_job_and_is_named():
    done = launched(2, "killed")
    assert done.code == 1
    assert "signal 9" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_request_to_stop_reaches_the_ranks_and_code_75_comes_back(number):
    command = [sys.executable, "-c", LAUNCH, "2", sys.executable, str(JOB), "stopped-in-order"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=clean_environment(2)
    )
    try:
        assert process.stdout.readline() == "ready\n"
        os.kill(process.pid, number)
        _, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 75
    assert "prterun" not in stderr
