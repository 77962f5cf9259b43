import errno
import io
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import marl.files
from marl.errors import InputError
from marl.loggers import (
    AtMostEvery,
    EveryNth,
    JournalLogger,
    MultiLogger,
    NullLogger,
    TensorBoardLogger,
    TerminalLogger,
    WandbLogger,
    read_journal,
)
from marl.loggers.base import Logger


class ListLogger(Logger):
    def __init__(self, error=None):
        self.rows, self.closed, self.error = [], False, error

    def write(self, row):
        self.rows.append(dict(row))

    def close(self):
        self.closed = True
        if self.error is not None:
            raise self.error


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def row(updates):
    return {"env_steps": 100 * updates, "updates": updates, "episode_return/mean": -40.0 - updates}


# Decorators


def test_all_loggers_of_a_multi_logger_get_each_row_and_are_closed_even_if_one_fails():
    loggers = [ListLogger(), ListLogger(OSError("broken")), ListLogger()]
    multi = MultiLogger([*loggers, NullLogger()])
    multi.write({"a": 1.0})
    with pytest.raises(OSError, match="broken"):
        multi.close()
    assert all(logger.rows == [{"a": 1.0}] and logger.closed for logger in loggers)


def test_every_nth_hands_on_the_first_row_and_each_nth_after_it():
    inner = ListLogger()
    logger = EveryNth(inner, 3)
    for index in range(8):
        logger.write({"a": index})
    logger.close()
    assert [r["a"] for r in inner.rows] == [0, 3, 6]
    assert inner.closed


def test_at_most_every_merges_what_waits_and_hands_on_the_last_row_when_closed():
    inner, clock = ListLogger(), Clock()
    logger = AtMostEvery(inner, 2.0, clock)
    for second, figures in enumerate([{"a": 0}, {"a": 1, "rare": 7}, {"a": 2}, {"a": 3}]):
        clock.now = second
        logger.write(figures)
    assert inner.rows == [{"a": 0}, {"a": 2, "rare": 7}]
    logger.close()
    assert inner.rows[-1] == {"a": 3}
    assert inner.closed


# Journal


def test_each_row_is_one_line_and_one_system_call(tmp_path, monkeypatch):
    calls = []
    write = os.write
    monkeypatch.setattr(marl.files.os, "write", lambda fd, data: calls.append(bytes(data)) or write(fd, data))
    journal = JournalLogger(tmp_path / "metrics.jsonl")
    journal.write({"env_steps": 128, "loss": 0.5})
    journal.write({"loss": np.float32(0.25), "count": np.int64(3), "tensor": torch.tensor(1.5), "flag": True})
    # Readable before it is closed.
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    journal.close()
    journal.close()
    assert json.loads(lines[0]) == {"env_steps": 128, "loss": 0.5}
    assert lines[0] == '{"env_steps":128,"loss":0.5}'
    assert json.loads(lines[1]) == {"loss": 0.25, "count": 3.0, "tensor": 1.5, "flag": 1}
    assert len(calls) == 2


def test_numbers_that_are_not_finite_are_null_in_the_file_and_nan_when_read(tmp_path):
    path = tmp_path / "metrics.jsonl"
    journal = JournalLogger(path)
    journal.write({"a": math.nan, "b": math.inf, "c": -math.inf, "d": 1.0})
    journal.close()
    strict = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert strict == {"a": None, "b": None, "c": None, "d": 1.0}
    (back,) = read_journal(path)
    assert back["d"] == 1.0
    assert all(math.isnan(back[key]) for key in "abc")


def test_a_journal_goes_on_where_another_process_stopped(tmp_path):
    for updates in (1, 2):
        journal = JournalLogger(tmp_path / "m")
        journal.write(row(updates))
        journal.close()
    assert list(read_journal(tmp_path / "m")) == [row(1), row(2)]


@pytest.mark.parametrize("tail", [b'{"updates":3,"lo', b'{"updates":3}', b"\0" * 40, b'{"a":\n', b"\xff\xfe\n"])
def test_an_unfinished_last_line_is_ignored_by_readers_and_removed_by_the_next_writer(tmp_path, tail):
    path = tmp_path / "m"
    journal = JournalLogger(path)
    journal.write(row(1))
    journal.write(row(2))
    journal.close()
    with path.open("ab") as file:
        file.write(tail)
    assert list(read_journal(path)) == [row(1), row(2)]
    journal = JournalLogger(path)
    journal.write(row(3))
    journal.close()
    assert list(read_journal(path)) == [row(1), row(2), row(3)]


def test_resuming_cuts_rows_beyond_the_checkpoint_so_that_none_is_missing_or_twice(tmp_path):
    path = tmp_path / "m"
    journal = JournalLogger(path)
    for updates in range(1, 11):
        journal.write(row(updates))
        if updates == 6:
            journal.write({"evaluation/return_mean": -35.0})  # without a count: belongs to the row before
    journal.close()
    with path.open("ab") as file:
        file.write(b'{"updates":11,')
    journal = JournalLogger(path)
    assert journal.truncate_after(6) == 7
    for updates in range(7, 13):
        journal.write(row(updates))
    assert journal.truncate_after(100) == 13
    journal.close()
    rows = list(read_journal(path))
    assert [r["updates"] for r in rows if "updates" in r] == list(range(1, 13))
    assert rows[6] == {"evaluation/return_mean": -35.0}


def test_a_journal_can_be_cut_back_to_nothing(tmp_path):
    journal = JournalLogger(tmp_path / "m")
    journal.write(row(1))
    assert journal.truncate_after(0) == 0
    journal.write(row(1))
    journal.close()
    assert list(read_journal(tmp_path / "m")) == [row(1)]


def test_a_journal_damaged_in_the_middle_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "m"
    content = b'{"updates":1}\nrubbish\n{"updates":2}\n'
    path.write_bytes(content)
    with pytest.raises(InputError, match="line 2 is not a JSON object"):
        JournalLogger(path)
    with pytest.raises(InputError, match="line 2"):
        list(read_journal(path))
    assert path.read_bytes() == content


def test_a_full_disk_leaves_whole_rows_only(tmp_path, monkeypatch):
    path = tmp_path / "m"
    journal = JournalLogger(path)
    journal.write(row(1))
    write = os.write

    def limited(descriptor, data):
        if len(data) < 20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, memoryview(data)[:20])

    with monkeypatch.context() as patch:
        patch.setattr(marl.files.os, "write", limited)
        with pytest.raises(InputError, match="No space left on device"):
            journal.write(row(2))
    assert list(read_journal(path)) == [row(1)]
    assert path.read_bytes().endswith(b"\n")
    journal.write(row(2))
    journal.close()
    assert list(read_journal(path)) == [row(1), row(2)]


def test_a_journal_in_no_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="No such file or directory"):
        JournalLogger(tmp_path / "nowhere" / "m")
    with pytest.raises(InputError, match="cannot read"):
        list(read_journal(tmp_path / "nowhere"))


# Terminal

FIGURES = {
    "env_steps": 25_000,
    "updates": 8,
    "env_steps_per_second": 5_000.0,
    "wall_seconds": 5.0,
    "episode_return/mean": -45.125,
    "episode_return/agent_0": -15.5,
    "episode_return/agent_1": -29.625,
    "value_loss": 0.125,
}


@pytest.fixture
def plain(monkeypatch):
    monkeypatch.setenv("MARL_TERMINAL", "0")


@pytest.fixture
def live(monkeypatch):
    monkeypatch.setenv("MARL_TERMINAL", "1")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("LINES", "30")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)


def test_plain_lines_come_at_a_sane_rate_but_always_first_and_last(plain):
    stream, clock = io.StringIO(), Clock()
    logger = TerminalLogger(100_000, title="mappo", stream=stream, clock=clock)
    for index in range(100):
        clock.now = index * 0.1
        logger.write({**FIGURES, "env_steps": 1000 * index})
    logger.close()
    lines = stream.getvalue().splitlines()
    assert lines[0] == "mappo"
    assert "0/100,000 steps" in lines[1]
    assert "99,000/100,000 steps" in lines[-1]
    assert len(lines) == 1 + 5 + 1
    assert "\x1b" not in stream.getvalue()


def test_a_plain_line_says_all_that_matters(plain):
    stream = io.StringIO()
    logger = TerminalLogger(100_000, stream=stream)
    logger.write({**FIGURES, "evaluation/return_mean": -38.0, "evaluation/return_ci95": 0.5})
    logger.close()
    (line,) = stream.getvalue().splitlines()
    for part in (
        "25%",
        "25,000/100,000 steps",
        "5,000 steps/s",
        "0:00:15 left",
        "return -45.12",
        "evaluation -38.00 ± 0.500 at 25,000 steps",
        "value_loss 0.125",
    ):
        assert part in line


def test_an_evaluation_is_printed_at_once(plain):
    stream, clock = io.StringIO(), Clock()
    logger = TerminalLogger(100_000, stream=stream, clock=clock)
    logger.write(FIGURES)
    logger.write(FIGURES)
    logger.write({"evaluation/return_mean": -38.0})
    logger.close()
    assert len(stream.getvalue().splitlines()) == 2


def test_a_stream_that_is_no_terminal_gets_plain_lines(monkeypatch):
    monkeypatch.delenv("MARL_TERMINAL", raising=False)
    stream = io.StringIO()
    logger = TerminalLogger(100, stream=stream)
    logger.write({"env_steps": 1})
    logger.close()
    assert "\x1b" not in stream.getvalue()


@pytest.mark.parametrize("size", [None, os.terminal_size((70, 20))])
def test_under_open_mpi_what_mpirun_writes_to_decides(monkeypatch, size):
    class PseudoTerminal(io.StringIO):
        def isatty(self):
            return True  # as Open MPI makes it, even if its own output goes to a file

    for name in ("MARL_TERMINAL", "COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    monkeypatch.setattr("marl.loggers.terminal._mpirun_size", lambda: size)
    stream = PseudoTerminal()
    logger = TerminalLogger(100_000, stream=stream)
    logger.write(FIGURES)
    logger.close()
    assert ("\x1b" in stream.getvalue()) == (size is not None)


def test_without_a_logged_rate_the_rate_is_measured(plain):
    stream, clock = io.StringIO(), Clock()
    logger = TerminalLogger(1000, stream=stream, clock=clock)
    logger.write({"env_steps": 100})
    clock.now = 10.0
    logger.write({"env_steps": 600})
    logger.close()
    first, second = stream.getvalue().splitlines()
    assert "0 steps/s  -:--:-- left" in first
    assert "50 steps/s  0:00:08 left" in second


def test_odd_figures_do_not_disturb_the_view(plain):
    stream = io.StringIO()
    logger = TerminalLogger(0, stream=stream)
    logger.write({"env_steps": 0, "env_steps_per_second": math.nan, "loss": math.inf, "x": 1e-9, "y": -1e9})
    logger.write({})
    logger.close()
    assert "loss inf" in stream.getvalue()


def test_the_live_view_shows_bar_rate_returns_and_evaluation_and_keeps_the_cursor(live):
    stream, clock = io.StringIO(), Clock()
    logger = TerminalLogger(100_000, title="mappo on spread", stream=stream, clock=clock)
    logger.write({**FIGURES, "evaluation/return_mean": -38.0, "evaluation/return_ci95": 0.5})
    clock.now = 0.1
    before = len(stream.getvalue())
    logger.write({**FIGURES, "value_loss": 0.375})
    assert len(stream.getvalue()) == before  # too soon
    logger.close()
    text = stream.getvalue()
    assert "\x1b" in text
    for part in ("mappo on spread", "━", "25%", "5,000 steps/s", "agent_0 -15.50", "-38.00 ± 0.500", "0.375"):
        assert part in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
    for line in text.splitlines():
        assert "Traceback" not in line


def test_a_hundred_agents_do_not_fill_the_screen(live):
    stream = io.StringIO()
    logger = TerminalLogger(100_000, stream=stream)
    logger.write({**FIGURES, **{f"episode_return/agent_{index}": float(index) for index in range(100)}})
    logger.close()
    assert "and 84 more" in stream.getvalue()


def test_the_live_view_fits_a_narrow_terminal(live, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    stream = io.StringIO()
    logger = TerminalLogger(100_000, title="a very long title that has no room", stream=stream)
    logger.write(FIGURES)
    logger.close()


# TensorBoard


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_gets_every_figure_over_environment_steps(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(tmp_path)
    for updates in (1, 2, 3):
        logger.write(row(updates))
    logger.close()
    resumed = TensorBoardLogger(tmp_path, resume_at=200)
    resumed.write({**row(3), "episode_return/mean": -1.0})
    resumed.write({"evaluation/return_mean": -2.0})
    resumed.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    points = [(event.step, event.value) for event in events.Scalars("episode_return/mean")]
    assert points == [(100, -41.0), (200, -42.0), (300, -1.0)]
    assert [event.step for event in events.Scalars("evaluation/return_mean")] == [300]


def test_without_tensorboard_the_way_out_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(InputError, match="pip install"):
        TensorBoardLogger(tmp_path)


# W&B: a real one, offline, and pretended ones that fail in every way

FAKE = """
import json, os, sys, time

KIND = os.environ["FAKE_WANDB"]
OUT = os.environ["FAKE_WANDB_OUT"]

def note(*what):
    with open(OUT, "a") as file:
        file.write(json.dumps(what) + "\\n")

if KIND == "import":
    raise ImportError("no wandb here")

def Settings(**settings):
    return settings

def Table(columns, data):
    return {"columns": columns, "data": data}

class Artifact:
    def __init__(self, name, type):
        self.name, self.type = name, type
    def add_dir(self, path):
        self.path = path

class Run:
    url = "https://example.org/run"
    dir = "/somewhere"
    summary = {"env_steps": 300} if KIND == "resumed" else {}
    def define_metric(self, name, **options):
        note("define_metric", name, options)
    def log(self, row):
        if KIND == "stall":
            time.sleep(3600)
        note("log", row)
    def log_artifact(self, artifact):
        note("artifact", artifact.name, artifact.type, artifact.path)
    def finish(self, exit_code):
        if KIND == "unfinished":
            time.sleep(3600)
        note("finish", exit_code)

def init(**options):
    note("init", {key: str(value) for key, value in options.items()})
    if KIND == "refuse":
        raise RuntimeError("api_key not configured\\nsecond line")
    if KIND == "hang":
        time.sleep(3600)
    if KIND == "die":
        os._exit(3)
    if KIND == "chatty":
        print("wandb: hello")
        print("[1, 2]")
        sys.stdout.flush()
    return Run()
"""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    package = tmp_path / "fake"
    package.mkdir()
    (package / "wandb.py").write_text(FAKE)
    monkeypatch.setenv("PYTHONPATH", str(package))
    monkeypatch.setenv("FAKE_WANDB_OUT", str(tmp_path / "calls"))

    def start(kind, **options):
        monkeypatch.setenv("FAKE_WANDB", kind)
        return WandbLogger(
            "project", "name", **{"mode": "online", "config": {"seed": 1}, "directory": tmp_path / "run", **options}
        )

    return start


def calls(tmp_path):
    return [json.loads(line) for line in (tmp_path / "calls").read_text().splitlines()]


def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_rows_artifact_and_end_reach_wandb_in_order(fake, tmp_path):
    logger = fake("fine", group="seeds", run_id="abc", warn=pytest.fail)
    for updates in (1, 2, 3):
        logger.write(row(updates))
    logger.log_table("leaderboard", ["player", "elo"], [["a", 12.5], ["b", None]])
    logger.log_artifact(tmp_path, "mappo on spread/1")
    logger.close()
    logger.close()
    (init, options), *rest = calls(tmp_path)
    assert init == "init"
    assert options["project"] == "project"
    assert options["config"] == "{'seed': 1}"
    assert (options["id"], options["group"], options["resume"]) == ("abc", "seeds", "None")
    assert rest == [
        ["define_metric", "env_steps", {}],
        ["define_metric", "*", {"step_metric": "env_steps"}],
        ["log", row(1)],
        ["log", row(2)],
        ["log", row(3)],
        ["log", {"leaderboard": {"columns": ["player", "elo"], "data": [["a", 12.5], ["b", None]]}}],
        ["artifact", "mappo-on-spread-1", "model", str(tmp_path)],
        ["finish", 0],
    ]
    assert logger.url == "https://example.org/run"
    assert (logger.failure, logger.dropped) == (None, 0)


def test_a_resumed_online_run_is_continued_without_a_repeat(fake, tmp_path):
    logger = fake("resumed", run_id="abc", resume=True, warn=pytest.fail)
    for updates in (2, 3, 4, 5):
        logger.write(row(updates))
    logger.close()
    assert [call[1]["updates"] for call in calls(tmp_path) if call[0] == "log"] == [4, 5]


def test_what_wandb_prints_is_no_answer(fake):
    logger = fake("chatty", warn=pytest.fail)
    logger.write(row(1))
    logger.close()
    assert logger.url == "https://example.org/run"


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("refuse", "RuntimeError: api_key not configured)"),
        ("die", "its process ended"),
        ("import", "ImportError: no wandb here"),
    ],
)
def test_without_wandb_training_goes_on_with_one_warning(fake, kind, why):
    lines = []
    logger = fake(kind, warn=lines.append)
    pid = logger._process.pid
    for updates in range(50):
        logger.write(row(updates))
        time.sleep(0.002)
    logger.log_artifact(Path("/tmp"), "x")
    logger.close()
    (line,) = lines
    assert why in line
    assert "marl track RUN" in line
    assert "\n" not in line
    assert gone(pid)


def test_a_wandb_that_never_begins_is_given_up(fake, monkeypatch):
    monkeypatch.setattr("marl.loggers.wandb._KILL_AFTER", 0.2)
    lines = []
    logger = fake("hang", init_timeout=0.3, warn=lines.append)
    pid = logger._process.pid
    while logger.failure is None:
        logger.write(row(1))
        time.sleep(0.02)
    logger.write(row(2))
    logger.close()
    assert len(lines) == 1
    assert gone(pid)


def test_closing_before_wandb_has_begun_does_not_wait_for_ever(fake, monkeypatch):
    monkeypatch.setattr("marl.loggers.wandb._KILL_AFTER", 0.2)
    lines = []
    logger = fake("hang", init_timeout=0.3, finish_timeout=0.1, warn=lines.append)
    logger.close()
    assert len(lines) == 1
    assert gone(logger._process.pid)


def test_a_stalled_wandb_costs_rows_but_never_blocks(fake):
    lines = []
    logger = fake("stall", most_bytes=10_000, finish_timeout=0.5, warn=lines.append)
    while logger.url is None:
        logger.write(row(0))
        time.sleep(0.01)
    os.kill(logger._process.pid, signal.SIGSTOP)  # not even the pipe is read any more
    for updates in range(5000):
        logger.write(row(updates))
    assert logger.dropped > 1000
    assert len(logger._unsent) < 20_000
    assert lines == []
    logger.close()
    (line,) = lines
    assert "uploads did not finish" in line
    assert gone(logger._process.pid)


def test_rows_dropped_in_a_stall_that_ends_are_counted_and_said(fake, tmp_path):
    lines = []
    logger = fake("fine", most_bytes=10_000, warn=lines.append)
    while logger.url is None:
        logger.write(row(0))
        time.sleep(0.01)
    os.kill(logger._process.pid, signal.SIGSTOP)
    for updates in range(1, 5001):
        logger.write(row(updates))
    os.kill(logger._process.pid, signal.SIGCONT)
    logger.close()
    logged = [call for call in calls(tmp_path) if call[0] == "log" and call[1]["updates"] > 0]
    assert len(logged) + logger.dropped >= 5000
    assert logger.dropped > 0
    assert f"missed {logger.dropped} rows" in lines[0]


def test_uploads_that_never_end_are_given_up(fake):
    lines = []
    logger = fake("unfinished", finish_timeout=0.3, init_timeout=5.0, warn=lines.append)
    while logger.url is None:
        logger.write(row(1))
        time.sleep(0.01)
    logger.close()
    assert len(lines) == 1
    assert gone(logger._process.pid)


def test_the_process_goes_when_the_training_process_is_killed(fake, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_WANDB", "fine")
    code = (
        "import pathlib, time; from marl.loggers.wandb import WandbLogger\n"
        f"l = WandbLogger('p', 'n', mode='online', config={{}}, directory=pathlib.Path({str(tmp_path)!r}))\n"
        "while l.url is None: l.write({'env_steps': 1}); time.sleep(0.01)\n"
        "print(l._process.pid, flush=True); time.sleep(3600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as training:
        pid = int(training.stdout.readline())
        training.kill()
    for _ in range(1000):
        state = Path(f"/proc/{pid}/stat")
        if gone(pid) or state.read_text().rpartition(")")[2].split()[0] == "Z":
            break
        time.sleep(0.01)
    else:
        pytest.fail("the W&B process outlived the training process")
    assert calls(tmp_path)[-1] == ["finish", 1]


def test_ctrl_c_reaches_training_only_and_the_run_is_finished_in_order(fake, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_WANDB", "fine")
    code = (
        # A shell's background jobs inherit that SIGINT is ignored.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "import pathlib, time; from marl.loggers.wandb import WandbLogger\n"
        f"l = WandbLogger('p', 'n', mode='online', config={{}}, directory=pathlib.Path({str(tmp_path)!r}))\n"
        "try:\n"
        "    while l.url is None: l.write({'env_steps': 1}); time.sleep(0.01)\n"
        "    print('ready', flush=True); time.sleep(3600)\n"
        "except KeyboardInterrupt:\n"
        "    l.write({'env_steps': 2}); l.close(1)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as training:
        assert training.stdout.readline() == "ready\n"
        os.killpg(training.pid, signal.SIGINT)  # as a terminal does: to the whole process group
    assert training.returncode == 0
    assert calls(tmp_path)[-2:] == [["log", {"env_steps": 2}], ["finish", 1]]


def test_a_real_offline_run_holds_everything_and_no_key(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    key = "0123456789abcdef0123456789abcdef01234567"
    monkeypatch.setenv("WANDB_API_KEY", key)
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "tensors").write_text("x")
    logger = WandbLogger(
        "project",
        "name",
        mode="offline",
        config={"seed": 3, "nested": {"a": [1]}},
        directory=tmp_path / "run",
        warn=pytest.fail,
    )
    command = Path(f"/proc/{logger._process.pid}/cmdline").read_bytes()
    for updates in range(300):
        logger.write({**row(updates), "nothing": math.nan})
    logger.log_artifact(checkpoint, "final")
    logger.close()
    assert logger.failure is None
    (data,) = (tmp_path / "run").rglob("run-*.wandb")
    content = data.read_bytes()
    assert content.count(b"episode_return/mean") >= 300
    assert key.encode() not in command
    for file in tmp_path.rglob("*"):
        if file.is_file():
            assert key.encode() not in file.read_bytes(), file


def test_an_unreachable_server_gives_one_warning(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody listens on the discard port
    lines = []
    logger = WandbLogger(
        "project", "name", mode="online", config={}, directory=tmp_path, init_timeout=2.0, warn=lines.append
    )
    logger.write(row(1))
    logger.close()
    (line,) = lines
    assert "W&B is not available" in line
    assert "0" * 40 not in line
