"""The supervisor: what it restarts, what it passes on, when it gives up, and what it says."""

import io
import os
import signal
import stat
import subprocess
import threading
import time

import pytest
from command_line import SHORT

from marl.counters import Counter
from marl.errors import InputError
from marl.launchers.jobs.job import JobResult
from marl.launchers.jobs.processes import JOB, Job, identity, jobs_named
from marl.launchers.stopping import StopRequest
from marl.launchers.supervision.diagnosis import Observer
from marl.launchers.supervision.failure import explain_failure
from marl.launchers.supervision.heartbeat import Heartbeat
from marl.launchers.supervision.supervisor import Supervisor, rank_folder

RULE = b"-" * 74 + b"\n"
KILLED = RULE + b"prterun noticed that process rank 1 with PID 0 on node vm exited on\nsignal 9 (Killed).\n" + RULE


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in (*os.environ,):
        if name.startswith(("OMPI_COMM", "PMI_", "MARL_")):
            monkeypatch.delenv(name)


@pytest.fixture
def run(tmp_path):
    return tmp_path / "run"


@pytest.fixture
def attempts(monkeypatch, tmp_path, run):
    """Replaces mpirun by a script that does what is said for each attempt, and notes what it was told."""

    def replace(*scripts):
        path = tmp_path / "mpirun"
        cases = "\n".join(f"{number}) {script} ;;" for number, script in enumerate(scripts))
        path.write_text(
            # Ranks whose work is done say so before they end.
            '#!/bin/bash\nexit() { [ "$1" = 0 ] && echo "$MARL_LAST_WORD" >&2; builtin exit "$@"; }\n'
            f"n=$(cat {tmp_path}/count 2>/dev/null || echo 0)\necho $((n + 1)) > {tmp_path}/count\n"
            f'printf "%s\\n" "$*" >> {tmp_path}/arguments\nmkdir -p {run}; touch {run}/config.json\n'
            f"case $n in\n{cases}\n"
            "*) exit 9 ;;\nesac\n"
        )
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        (tmp_path / "prterun").touch()
        monkeypatch.setattr("marl.launchers.jobs.mpirun.find_mpirun", lambda: path)

    return replace


def supervise(run, *, max_restarts=10, watchdog=0.0, resume=False):
    said = io.BytesIO()
    supervisor = Supervisor(
        ["train", "ippo", "game"],
        run,
        2,
        max_restarts=max_restarts,
        watchdog=watchdog,
        resume=resume,
        stderr=said,
        first_delay=0.01,
    )
    return supervisor.supervise(), said.getvalue().decode()


def tried(tmp_path):
    return (tmp_path / "arguments").read_text().splitlines()


def beat(run, rank, updates, *, over=False):
    """A line of shell that leaves a rank's heartbeat."""
    source = run.parent / f"beat-{rank}-{updates}"
    source.mkdir()
    heartbeat = Heartbeat(rank)
    heartbeat.counter = Counter()
    heartbeat.counter.updates = updates
    heartbeat.open(source)
    if over:
        heartbeat.end()
    heartbeat.close()
    return f"mkdir -p {run}/ranks; cp {source}/{rank}.beat {run}/ranks/"


@pytest.mark.parametrize("code", [0, 2, 75])
def test_codes_with_a_meaning_are_passed_on(attempts, run, tmp_path, code):
    attempts(f"exit {code}")
    assert supervise(run) == (code, "")
    assert len(tried(tmp_path)) == 1


def test_a_failed_job_is_resumed_until_it_is_done(attempts, run, tmp_path):
    (tmp_path / "notice").write_bytes(KILLED)
    attempts(f"{beat(run, 1, 4)}; cat {tmp_path}/notice >&2; exit 137", f"{beat(run, 1, 6)}; kill -9 $$", "exit 0")
    code, said = supervise(run)
    assert code == 0
    assert [line.endswith("--resume") for line in tried(tmp_path)] == [False, True, True]
    assert all(f"--out {run}" in line for line in tried(tmp_path))
    assert "the job failed after update 4: rank 1 was killed by signal 9 (SIGKILL)" in said
    assert "the job failed after update 6: mpirun was killed by signal 9 (SIGKILL)" in said
    assert "restart 1 of 10, from its newest checkpoint, in 0.01 s" in said
    assert "prterun" not in said
    assert sorted(path.name for path in (run / "failures").iterdir()) == ["1", "2"]
    assert not rank_folder(run).exists()


def test_it_gives_up_where_the_same_update_fails_again_and_again(attempts, run, tmp_path):
    fails = f"{beat(run, 0, 8)}; echo 'RuntimeError: nan' > {run}/ranks/0.error; exit 1"
    attempts(*[fails] * 10)
    code, said = supervise(run)
    assert code == 1
    assert len(tried(tmp_path)) == 3
    assert "after update 8: rank 0 raised RuntimeError: nan" in said
    assert said.splitlines()[-1] == "marl: not started again: the same failure after update 8 came 3 times in a row"


def test_failures_that_get_further_each_time_are_no_reason_to_give_up(attempts, run, tmp_path):
    attempts(*[f"{beat(run, 0, update)}; kill -9 $$" for update in range(6)], "exit 0")
    assert supervise(run)[0] == 0
    assert len(tried(tmp_path)) == 7


def test_it_gives_up_after_so_many_restarts(attempts, run, tmp_path):
    attempts(*[f"exit {3 + number}" for number in range(9)])
    code, said = supervise(run, max_restarts=2)
    assert (code, len(tried(tmp_path))) == (1, 3)
    assert "not started again: 2 restarts were allowed (--max-restarts)" in said


def test_without_progress_it_waits_longer_each_time(attempts, run):
    attempts("exit 3", "exit 4", "exit 5", f"{beat(run, 0, 2)}; exit 6", "exit 0")
    _, said = supervise(run)
    assert [line.rsplit(" in ", 1)[1] for line in said.splitlines() if "restart " in line] == [
        "0.01 s",
        "0.02 s",
        "0.04 s",
        "0.01 s",
    ]


def test_a_request_to_stop_is_not_answered_by_a_restart(attempts, run, tmp_path):
    attempts(f"{beat(run, 0, 3)}; trap 'exit 9' USR1; kill -TERM $PPID; while :; do sleep 0.05; done")
    code, said = supervise(run)
    assert (code, len(tried(tmp_path))) == (1, 1)
    assert "not started again: it was asked to stop" in said


def test_a_request_before_ranks_listen_ends_the_job(attempts, run, tmp_path):
    attempts("trap '' USR1; kill -USR1 $PPID; while :; do sleep 0.05; done")
    code, said = supervise(run)
    assert (code, len(tried(tmp_path))) == (75, 1)
    assert said == f"marl: stopped while no rank was training; go on with --resume --out {run}\n"
    assert jobs_named(str(run.resolve())) == set()


def test_the_dead_do_not_listen(attempts, run, tmp_path):
    left = beat(run, 0, 3)
    path = run.parent / "beat-0-3" / "0.beat"
    path.write_bytes(path.read_bytes().replace(identity(os.getpid()).encode(), b"999999999-1"))
    attempts(f"{left}; trap '' USR1; kill -USR1 $PPID; while :; do sleep 0.05; done")
    assert supervise(run)[0] == 75


def test_an_mpirun_that_dies_of_the_request_was_stopped(attempts, run, tmp_path):
    attempts(f"{beat(run, 0, 3)}; kill -USR1 $PPID; while :; do sleep 0.05; done")
    code, said = supervise(run)
    assert (code, len(tried(tmp_path))) == (75, 1)
    assert "failed" not in said


def test_a_request_before_the_first_attempt_starts_nothing(attempts, run, tmp_path):
    attempts("exit 0")
    with StopRequest():
        os.kill(os.getpid(), signal.SIGUSR1)
        code, said = supervise(run)
    assert (code, said) == (
        75,
        "marl: stopped while no rank was training; go on by the same command; nothing was begun\n",
    )
    assert not (tmp_path / "arguments").exists()


def test_a_request_between_two_attempts_leaves_a_run_that_can_be_resumed(attempts, run, tmp_path):
    attempts("exit 3", "exit 0")
    said = io.BytesIO()
    supervisor = Supervisor(
        ["train"], run, 2, max_restarts=5, watchdog=0.0, resume=False, stderr=said, first_delay=60.0
    )

    def ask():
        while b"restart 1 of 5" not in said.getvalue():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    asking = threading.Thread(target=ask)
    asking.start()
    assert supervisor.supervise() == 75
    asking.join()
    assert len(tried(tmp_path)) == 1


def test_a_host_that_does_not_answer_is_left_out_of_the_next_attempt_and_asked_again(
    attempts, run, tmp_path, monkeypatch
):
    hosts, agent = tmp_path / "hosts", tmp_path / "agent"
    hosts.write_text("localhost slots=1\naway slots=1\n")
    agent.write_text(f"#!/bin/bash\n[ -e {tmp_path}/back ]\n")
    agent.chmod(0o700)
    monkeypatch.setenv("PRTE_MCA_prte_default_hostfile", str(hosts))
    monkeypatch.setenv("PRTE_MCA_plm_ssh_agent", str(agent))
    note = f'cat "$PRTE_MCA_prte_default_hostfile" >> {tmp_path}/used; echo >> {tmp_path}/used'
    attempts(f"{note}; exit 3", f"{note}; touch {tmp_path}/back; exit 4", f"{note}; exit 0")
    code, said = supervise(run)
    assert code == 0
    assert (tmp_path / "used").read_text().split("\n\n")[:-1] == [
        "localhost slots=1\naway slots=1",
        "localhost slots=1",
        "localhost slots=1\naway slots=1",
    ]
    assert said.count("marl: no answer from away; 2 ranks start on the other hosts\n") == 1


def test_no_process_of_an_attempt_outlives_it(attempts, run):
    attempts("(trap '' TERM; exec sleep 100) & disown; kill -9 $$", "exit 0")
    assert supervise(run)[0] == 0
    assert jobs_named(str(run.resolve())) == set()


def test_what_a_killed_supervisor_left_is_ended_first(attempts, run):
    attempts("exit 0")
    mark = Job(str(run.resolve()), "999999999-1").mark
    orphan = subprocess.Popen(["sleep", "100"], env={**os.environ, JOB: mark})
    try:
        code, said = supervise(run)
        assert (code, said) == (0, "marl: ending what an earlier job on this run left behind\n")
        assert orphan.wait(10) == -signal.SIGKILL
    finally:
        orphan.kill()
        orphan.wait()


def test_two_supervisors_of_one_run_are_refused(attempts, run):
    attempts("exit 0")
    mark = Job.of_this_process(str(run.resolve())).mark
    other = subprocess.Popen(["sleep", "100"], env={**os.environ, JOB: mark})
    try:
        with pytest.raises(InputError, match=f"process {os.getpid()} is at work on {run} already"):
            supervise(run)
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


@pytest.fixture
def impatient(monkeypatch):
    """A supervisor that waits half a second for progress."""
    monkeypatch.setattr("marl.launchers.supervision.supervisor._OBSERVER_INTERVAL", 0.1)
    monkeypatch.setattr(
        "marl.launchers.supervision.supervisor.Observer",
        lambda folder, _, ignored: Observer(folder, 0.5, ignored=ignored),
    )


@pytest.mark.usefixtures("impatient")
def test_a_job_of_stopped_ranks_is_ended_by_the_supervisor(attempts, run):
    attempts(f"{beat(run, 0, 3)}; exec sleep 100", "exit 0")

    code, said = supervise(run, watchdog=1.0)
    assert code == 0
    assert "the job failed after update 3: rank 0 is late, in its own work since update 3" in said


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(("over", "attempted"), [(False, 2), (True, 1)])
def test_ranks_that_take_long_to_end_are_not_thought_to_hang(attempts, run, tmp_path, over, attempted):
    # As when W&B takes a minute to finish, of which no rank knows anything but rank 0.
    ranks = "; ".join(beat(run, rank, 3, over=over) for rank in range(2))
    attempts(f"{ranks}; sleep {1.5 if over else 100}; exit 0", "exit 0")
    code, said = supervise(run, watchdog=1.0)
    assert code == 0
    assert len(tried(tmp_path)) == attempted
    assert ("ranks 0, 1 are late" in said) == (not over)


@pytest.mark.usefixtures("impatient")
def test_what_a_killed_job_left_does_not_end_the_next_one_that_is_slow_to_start(attempts, run, tmp_path):
    subprocess.run(beat(run, 0, 3), shell=True, check=True)
    attempts("sleep 1.5; exit 0")
    assert supervise(run, watchdog=1.0, resume=True) == (0, "")
    assert len(tried(tmp_path)) == 1


def test_a_request_to_stop_that_comes_too_late_leaves_the_job_to_its_end(attempts, run, tmp_path):
    attempts(f"{beat(run, 0, 3, over=True)}; trap '' USR1; kill -USR1 $PPID; sleep 0.5; exit 0")
    assert supervise(run) == (0, "")


@pytest.mark.parametrize(
    ("files", "ended", "cause"),
    [
        ({"1.stack": "Fatal Python error: Segmentation fault\n"}, (139, b""), "rank 1 crashed: Segmentation fault"),
        ({"0.error": "ValueError: bad"}, (1, b""), "rank 0 raised ValueError: bad"),
        ({"verdict.json": '{"late": [1], "reason": "rank 1 is late", "host": "here"}'}, (1, b""), "rank 1 is late"),
        ({}, (137, KILLED), "rank 1 was killed by signal 9 (SIGKILL)"),
        ({}, (-15, b""), "mpirun was killed by signal 15 (SIGTERM)"),
        ({}, (134, b""), "mpirun ended with exit code 134, as if by signal 6 (SIGABRT)"),
        ({}, (3, b""), "mpirun ended with exit code 3"),
    ],
)
def test_the_cause_is_found_in_what_ranks_and_mpirun_left(tmp_path, files, ended, cause):
    for rank in range(2):
        heartbeat = Heartbeat(rank)
        heartbeat.open(tmp_path)
        heartbeat.close()
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    assert explain_failure(JobResult(code=ended[0], notices=ended[1]), tmp_path).cause == cause


def test_the_end_of_all_ranks_is_no_success_whatever_mpirun_says(tmp_path):
    assert explain_failure(JobResult(code=0, notices=b""), tmp_path).cause == (
        "the ranks ended, as if all were well, before their work was done"
    )


STACK = """Thread 0x1 (most recent call first):
  File "/lib/threading.py", line 1 in wait

Current thread 0x2 (most recent call first):
  File "/project/game.py", line 42 in step
  File "/project/envs/parallel.py", line 1 in _step
"""


def test_each_rank_is_told_with_its_update_collective_and_place(tmp_path):
    for rank, updates in enumerate((5, -1)):
        heartbeat = Heartbeat(rank)
        heartbeat.counter = Counter()
        heartbeat.counter.updates = updates
        heartbeat.open(tmp_path)
        heartbeat.enter(0, 4096)
        if rank:
            heartbeat.leave()
        heartbeat.end()
        heartbeat.close()
    (tmp_path / "0.stack").write_text(STACK + STACK.replace("42", "43"))
    failure = explain_failure(JobResult(code=1, notices=b""), tmp_path)
    assert failure.ranks == (
        "rank 0: after update 5, in all_reduce of 4,096 bytes, at /project/game.py:43 in step",
        "rank 1: before the first update, no stack",
    )
    assert failure.update == 5


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--max-restarts", -1), "--max-restarts cannot be negative, got -1"),
        (("--watchdog", -1), "--watchdog cannot be negative, got -1.0"),
        (("--env-failures", -1), "--env-failures cannot be negative, got -1"),
    ],
)
def test_options_are_checked(refused, tmp_path, words, line):
    assert refused("train", "ippo", "toy_game:make", *SHORT, *words, "--out", tmp_path / "run") == line
    assert list(tmp_path.iterdir()) == []
