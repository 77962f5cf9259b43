"""W&B: a real one, offline, and fake ones that fail in every way."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from metric_rows import row

from marl.loggers import WandbLogger

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


def test_a_run_that_was_ended_before_its_final_evaluation_gets_it_when_it_is_resumed(fake, tmp_path):
    logger = fake("resumed", run_id="abc", resume=True, warn=pytest.fail)
    final = {**row(3), "evaluation/final_env_steps": 300}
    for each in (row(2), row(3), final):
        logger.write(each)
    logger.close()
    assert [call[1] for call in calls(tmp_path) if call[0] == "log"] == [final]


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
