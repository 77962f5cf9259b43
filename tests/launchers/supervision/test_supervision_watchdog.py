"""Heartbeats, and the verdict over those that stand still."""

import contextlib
import dataclasses
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
import torch

from marl.counters import Counter
from marl.distributed.communicators import SerialCommunicator
from marl.launchers.jobs.processes import identity, is_stopped
from marl.launchers.supervision.diagnosis import (
    SHUTDOWN_TIMEOUT,
    Observer,
    Verdict,
    dump_stacks,
    find_hang,
    judge,
    read_frame,
)
from marl.launchers.supervision.heartbeat import Beat, Heartbeat, read_beats
from marl.launchers.supervision.watchdog import Watchdog, make_folder, watched_rank
from marl.launchers.supervision.watched_communicator import WatchedCommunicator


def beat(rank, *, entered=5, left=None, updates=3, kind="all_reduce", size=64, pid=None, host=None, over=False):
    pid = os.getpid() if pid is None else pid
    return Beat(
        rank=rank,
        host=socket.gethostname() if host is None else host,
        pid=pid,
        identity=identity(pid),
        updates=updates,
        entered=entered,
        left=entered - 1 if left is None else left,
        kind=kind,
        size=size,
        over=over,
    )


@pytest.fixture
def sleeper():
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield process
    process.kill()
    process.wait()


def test_a_heartbeat_tells_updates_and_the_collective_that_a_rank_is_in(tmp_path):
    heartbeat = Heartbeat(2)
    heartbeat.open(tmp_path)
    inside = []

    class Looks(SerialCommunicator):
        def all_reduce(self, tensor, operation="sum"):
            inside.extend(read_beats(tmp_path))

    communicator = WatchedCommunicator(Looks(), heartbeat)
    heartbeat.counter = Counter()
    heartbeat.counter.updates = 7
    communicator.all_reduce(torch.zeros(3))
    (during,) = inside
    assert (during.rank, during.updates, during.waits) == (2, 7, True)
    assert during.collective == "all_reduce of 12 bytes"
    assert during.identity == identity(os.getpid())
    (after,) = read_beats(tmp_path)
    assert (after.entered, after.left, after.waits) == (1, 1, False)
    communicator.broadcast(torch.zeros(2, dtype=torch.float64))
    assert communicator.gather_rows(torch.ones(2, 1)).tolist() == [[1.0], [1.0]]
    assert read_beats(tmp_path)[0].entered == 3
    heartbeat.close()


def test_a_run_whose_ranks_files_were_removed_has_no_heartbeats(tmp_path):
    assert read_beats(tmp_path / "ranks") == []


def test_files_that_are_not_written_yet_are_passed_over(tmp_path):
    (tmp_path / "0.beat").write_bytes(b"")
    (tmp_path / "1.beat").write_bytes(bytes(40))
    assert read_beats(tmp_path) == []
    assert read_beats(tmp_path / "nowhere") == []
    Heartbeat(0).open(tmp_path / "nowhere")


def test_the_rank_that_has_not_come_to_a_collective_is_late():
    verdict = judge([beat(0), beat(1, entered=4, left=4), beat(2)])
    assert verdict.late == (1,)
    assert verdict.reason == (
        "rank 1 is late, in its own work since update 3; ranks 0, 2 are waiting in all_reduce of 64 bytes"
    )


def test_a_rank_that_left_the_newest_collective_is_late_for_the_next():
    # Of a broadcast the root may be the first to leave.
    assert judge([beat(0, left=5), beat(1)]).late == (0,)


def test_a_rank_in_an_earlier_collective_is_late_only_where_nobody_works():
    assert judge([beat(0, entered=6), beat(1, entered=5)]).late == (1,)
    assert judge([beat(0, entered=6), beat(1, entered=5), beat(2, entered=5, left=5)]).late == (2,)


def test_collectives_out_of_step_are_told_apart():
    verdict = judge([beat(0), beat(1, kind="broadcast", size=8)])
    assert verdict.late == (0, 1)
    assert "out of step: rank 0 is in all_reduce of 64 bytes, rank 1 is in broadcast of 8 bytes" in verdict.reason
    assert "which does not end" in judge([beat(0), beat(1)]).reason


def test_whoever_is_at_work_holds_up_those_that_have_left_training():
    assert judge([beat(0, left=5), beat(1, left=5, over=True)]).late == (0,)
    everybody = judge([beat(0, left=5, over=True), beat(1, left=5, over=True)])
    assert everybody == Verdict((0, 1), "ranks 0, 1 are late, at its end since update 3")
    failed = judge([beat(0, entered=4, left=4, over=True), beat(1)])
    assert failed.reason == "rank 0 is late, at its end since update 3; rank 1 is waiting in all_reduce of 64 bytes"


def test_a_stopped_rank_is_named_though_all_are_in_the_same_collective(sleeper):
    beats = [beat(0), beat(1, pid=sleeper.pid)]
    sleeper.send_signal(signal.SIGSTOP)
    while not is_stopped(sleeper.pid):
        time.sleep(0.01)
    assert judge(beats) == Verdict((1,), "rank 1 is stopped by a signal (SIGSTOP) and did not go on")
    sleeper.kill()
    sleeper.wait()
    assert judge(beats) == Verdict((1,), "rank 1 is gone without a word")


def test_processes_of_other_hosts_are_not_looked_up():
    assert "which does not end" in judge([beat(0), beat(1, pid=1 << 30, host="elsewhere")]).reason


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_a_rank_that_stands_still_too_long_is_noticed(tmp_path):
    clock = Clock()
    heartbeat = Heartbeat(0)
    heartbeat.open(tmp_path)
    observer = Observer(tmp_path, 10.0, clock)
    for second in range(30):
        clock.now = second
        if second < 15:
            heartbeat.enter(0, 8)
        verdict = observer.poll()
        # Since second 14 nothing has changed.
        assert (verdict is None) == (second <= 24), second
    heartbeat.close()


def test_a_job_at_its_end_is_given_time_but_not_for_ever(tmp_path):
    clock = Clock()
    heartbeats = [Heartbeat(rank) for rank in range(2)]
    for heartbeat in heartbeats:
        heartbeat.open(tmp_path)
    observer = Observer(tmp_path, 10.0, clock)
    # Rank 0 is in its last collective while rank 1 sends its curves to a slow server.
    heartbeats[0].enter(0, 8)
    heartbeats[1].end()
    for clock.now in range(int(SHUTDOWN_TIMEOUT) + 1):
        assert observer.poll() is None
    clock.now += 1
    assert observer.poll().late == (1,)
    for heartbeat in heartbeats:
        heartbeat.close()


def test_ranks_of_a_former_job_are_not_waited_for(tmp_path):
    clock = Clock()
    heartbeat = Heartbeat(0)
    heartbeat.open(tmp_path)
    (left,) = read_beats(tmp_path)
    patient = Observer(tmp_path, 3.0, clock, ignored=[left])
    other = Observer(tmp_path, 3.0, clock, ignored=[dataclasses.replace(left, pid=left.pid + 1)])
    for clock.now in range(4):
        assert patient.poll() is other.poll() is None
    clock.now = 4.0
    assert patient.poll() is None
    assert other.poll().late == (0,)
    heartbeat.close()


def test_a_job_that_was_suspended_as_a_whole_is_not_late(tmp_path):
    clock = Clock()
    heartbeat = Heartbeat(0)
    heartbeat.open(tmp_path)
    observer = Observer(tmp_path, 10.0, clock)
    assert observer.poll() is None
    clock.now = 3600.0
    assert observer.poll() is None
    for clock.now in range(3601, 3611):
        assert observer.poll() is None
    clock.now = 3611.0
    assert observer.poll() is not None
    heartbeat.close()


def test_the_watchdog_ends_a_rank_that_is_stuck_and_writes_where_it_was(tmp_path, capfd):
    make_folder(tmp_path / "ranks")
    heartbeat = Heartbeat(0)
    heartbeat.open(tmp_path / "ranks")
    left = threading.Event()
    codes = []

    def leave(code):
        codes.append(code)
        left.set()

    descriptor = os.open(tmp_path / "ranks" / "0.stack", os.O_WRONLY | os.O_CREAT)
    with Watchdog(tmp_path / "ranks", 0.3, stacks=descriptor, leave=leave):
        assert left.wait(30)
    os.close(descriptor)
    assert codes == [1]
    assert Verdict.load(tmp_path / "ranks").late == (0,)
    assert "rank 0 is late, in its own work" in capfd.readouterr().err
    assert "in wait" in read_frame(tmp_path / "ranks", 0)
    heartbeat.close()


WHOLE = """Thread 0x1 (most recent call first):
  File "/lib/threading.py", line 1 in wait
  File "/lib/threading.py", line 2 in _bootstrap

Current thread 0x2 (most recent call first):
  File "/project/game.py", line 42 in step
  File "/project/train.py", line 7 in <module>
"""


def test_a_stack_cut_by_the_end_of_the_process_is_passed_over_for_the_one_before(tmp_path):
    later = WHOLE.replace("42", "43")
    for length in range(len(later) + 1):
        (tmp_path / "0.stack").write_text(WHOLE + later[:length])
        # The last character that counts is the one that closes <module>.
        assert read_frame(tmp_path, 0) == f"/project/game.py:{42 if length < len(later) - 1 else 43} in step"


def test_a_stack_that_is_all_there_is_counts_even_if_it_is_cut(tmp_path):
    (tmp_path / "0.stack").write_text(WHOLE[: WHOLE.index("line 7")])
    assert read_frame(tmp_path, 0) == "/project/game.py:42 in step"
    (tmp_path / "0.stack").write_text("")
    assert read_frame(tmp_path, 0) is None


def test_only_the_first_to_notice_speaks(tmp_path):
    assert Verdict((1,), "first").save(tmp_path)
    assert not Verdict((0,), "second").save(tmp_path)
    assert Verdict.load(tmp_path) == Verdict((1,), "first")


def test_a_rank_writes_why_it_ended(tmp_path):
    heartbeat = Heartbeat(1)
    with (
        pytest.raises(ZeroDivisionError),
        watched_rank(tmp_path, heartbeat, 1, timeout=100.0, in_job=False),
    ):
        raise ZeroDivisionError("division\nby zero")
    assert (tmp_path / "1.error").read_text() == "ZeroDivisionError: division by zero"


@pytest.mark.parametrize("error", [None, ZeroDivisionError()])
def test_a_rank_says_that_it_has_left_training_whether_in_order_or_not(tmp_path, error):
    heartbeat = Heartbeat(1)
    heartbeat.counter = Counter()
    heartbeat.counter.updates = 7
    with (
        contextlib.suppress(ZeroDivisionError),
        watched_rank(tmp_path, heartbeat, 1, timeout=100.0, in_job=False),
    ):
        assert [(beat.updates, beat.over) for beat in read_beats(tmp_path)] == [(7, False)]
        if error is not None:
            raise error
    # How far it came stays there to be read.
    assert [(beat.updates, beat.over) for beat in read_beats(tmp_path)] == [(7, True)]


def test_only_ranks_that_train_are_asked_for_their_stacks(monkeypatch, sleeper):
    asked = []
    with monkeypatch.context() as patch:
        patch.setattr(os, "kill", lambda pid, number: asked.append((pid, number)))
        dump_stacks([beat(0, pid=sleeper.pid, over=True)])
        assert asked == []
        dump_stacks([beat(0, pid=sleeper.pid)])
    assert asked == [(sleeper.pid, signal.SIGUSR2)]


def test_a_folder_that_is_not_there_costs_nothing(tmp_path):
    with watched_rank(tmp_path / "ranks", Heartbeat(0), 0, timeout=100.0, in_job=False):
        pass
    assert list(tmp_path.iterdir()) == []


def test_an_orphan_of_mpirun_ends_itself(tmp_path):
    # The middle process starts a rank and ends; the rank must not stay.
    rank = (
        "import sys, time; sys.path.insert(0, '.')\n"
        "from pathlib import Path\n"
        "from marl.launchers.supervision.watchdog import Watchdog\n"
        f"with Watchdog(Path({str(tmp_path)!r}), 0, follows_parent=True):\n"
        f"    Path({str(tmp_path / 'ready')!r}).touch(); time.sleep(100)\n"
    )
    middle = (
        "import subprocess, sys, time, pathlib\n"
        f"process = subprocess.Popen([sys.executable, '-c', {rank!r}]); print(process.pid, flush=True)\n"
        f"while not pathlib.Path({str(tmp_path / 'ready')!r}).exists(): time.sleep(0.01)\n"
    )
    started = subprocess.run([sys.executable, "-c", middle], capture_output=True, text=True, timeout=120, check=True)
    pid, deadline = int(started.stdout), time.monotonic() + 60
    while identity(pid) is not None:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_ranks_that_wait_for_one_that_gets_on_with_its_work_do_not_hang():
    # Rank 0 has played its share of an evaluation, and rank 1 plays on.
    beats = [beat(0), beat(1, entered=4, left=4)]
    assert find_hang(beats, []) is None
    assert find_hang(beats, [0]) is None
    assert find_hang(beats, [0, 1]).late == (1,)
    # Of two that the others wait for, it is the silent one that hangs.
    three = [beat(0), beat(1, entered=4, left=4), beat(2, entered=4, left=4)]
    assert find_hang(three, [0, 2]).late == (2,)
    # All are in one collective, which the last has entered just now.
    assert find_hang([beat(0), beat(1)], [0]) is None
    assert find_hang([beat(0), beat(1)], [0, 1]).late == (0, 1)


def test_signs_of_life_are_progress_without_collectives(tmp_path, monkeypatch):
    clock = Clock()
    heartbeat = Heartbeat(0)
    heartbeat.open(tmp_path)
    monkeypatch.setattr("marl.launchers.supervision.heartbeat.time.monotonic", clock)
    observer = Observer(tmp_path, 10.0, clock)
    for second in range(40):
        clock.now = second
        if second < 25:
            heartbeat.beat()
        assert (observer.poll() is None) == (second <= 34), second
    signs = read_beats(tmp_path)[0].signs
    heartbeat.beat()
    heartbeat.beat()
    assert read_beats(tmp_path)[0].signs == signs + 1
    heartbeat.close()
