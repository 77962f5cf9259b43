import json
import math
import os
from pathlib import Path

import pytest

from marl.checkpoints.checkpoint import save_checkpoint
from marl.errors import InputError
from marl.launchers.reports.wandb_upload import track
from marl.launchers.run.run_directory import RunDirectory
from marl.loggers import JournalLogger

FAKE = """
import json, os
OUT = os.environ["FAKE_WANDB_OUT"]
def note(*what):
    with open(OUT, "a") as file:
        file.write(json.dumps(what) + "\\n")
def Settings(**settings):
    return settings
class Artifact:
    def __init__(self, name, type):
        self.name = name
    def add_dir(self, path):
        note("artifact", self.name, path)
class Run:
    url, dir = "https://example.org/run", "/somewhere"
    def __init__(self):
        # What the server remembers of a run that it knows.
        rows = [c for c in map(json.loads, open(OUT)) if c[0] == "log"] if os.path.exists(OUT) else []
        self.summary = rows[-1][1] if rows else {}
    def define_metric(self, name, **options):
        pass
    def log(self, row):
        note("log", row)
    def log_artifact(self, artifact):
        pass
    def finish(self, exit_code):
        note("finish", exit_code)
def init(**options):
    if os.environ.get("FAKE_WANDB") == "refuse":
        raise RuntimeError("no route to host")
    note("init", {key: str(value) for key, value in options.items()})
    return Run()
"""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    package = tmp_path / "fake"
    package.mkdir()
    (package / "wandb.py").write_text(FAKE)
    monkeypatch.setenv("PYTHONPATH", str(package))
    monkeypatch.setenv("FAKE_WANDB_OUT", str(tmp_path / "calls"))


def calls(tmp_path, kind):
    return [c[1:] for c in map(json.loads, (tmp_path / "calls").read_text().splitlines()) if c[0] == kind]


def make_run(path, rows):
    run = RunDirectory.create(path, {"algorithm": "mappo", "seed": 4})
    add_rows(run, 1, rows)
    return run


def add_rows(run, first, last):
    journal = JournalLogger(run.metrics)
    for updates in range(first, last + 1):
        journal.write({"env_steps": 100 * updates, "updates": updates, "episode_return/mean": -1.0 * updates})
    journal.close()


def test_all_rows_and_the_newest_checkpoint_go_into_one_run(tmp_path, fake):
    run = make_run(tmp_path / "run", 2000)
    save_checkpoint(run.checkpoints, 100, {}, {})
    newest = save_checkpoint(run.checkpoints, 200, {}, {})
    assert track(run.path, "online", "project") == "https://example.org/run"
    ((options,),) = calls(tmp_path, "init")
    assert (options["project"], options["name"], options["mode"]) == ("project", "run", "online")
    assert options["id"] == f"{run.run_id}-journal"
    assert "'seed': 4" in options["config"]
    assert [row["updates"] for (row,) in calls(tmp_path, "log")] == list(range(1, 2001))
    assert calls(tmp_path, "artifact") == [[f"{run.run_id}-checkpoint", str(newest)]]
    assert calls(tmp_path, "finish") == [[1]]  # no summary: it is not done


def test_tracking_twice_adds_what_is_new(tmp_path, fake):
    run = make_run(tmp_path / "run", 5)
    track(run.path)
    add_rows(run, 6, 9)
    run.write_summary({"env_steps": 900})
    track(run.path)
    assert [row["updates"] for (row,) in calls(tmp_path, "log")] == list(range(1, 10))
    assert len({options["id"] for (options,) in calls(tmp_path, "init")}) == 1
    assert calls(tmp_path, "finish") == [[1], [0]]


def test_a_run_broken_off_and_resumed_is_tracked_without_gap_or_repeat(tmp_path, fake):
    run = make_run(tmp_path / "run", 7)
    journal = JournalLogger(run.metrics)
    journal.truncate_after(4)
    journal.close()
    add_rows(run, 5, 8)
    track(run.path)
    assert [row["updates"] for (row,) in calls(tmp_path, "log")] == list(range(1, 9))


def test_trouble_with_wandb_is_one_clear_line(tmp_path, fake, monkeypatch):
    monkeypatch.setenv("FAKE_WANDB", "refuse")
    with pytest.raises(InputError, match="no route to host; nothing is lost"):
        track(make_run(tmp_path / "run", 3).path)


def test_what_is_no_run_or_has_no_rows_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        track(tmp_path / "nowhere")
    run = RunDirectory.create(tmp_path / "run", {})
    with pytest.raises(InputError, match="cannot read"):
        track(run.path)
    run.metrics.write_text("")
    with pytest.raises(InputError, match="no rows yet"):
        track(run.path)


def test_a_real_offline_run_holds_every_row(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run = make_run(tmp_path / "run", 150)
    journal = JournalLogger(run.metrics)
    journal.write({"env_steps": 15_100, "updates": 151, "value_loss": math.nan})
    journal.close()
    save_checkpoint(run.checkpoints, 15_100, {}, {})
    folder = Path(track(run.path, "offline", "project"))
    assert folder.is_relative_to(run.path)
    (data,) = run.path.rglob("run-*.wandb")
    assert f"{run.run_id}-journal" in data.name
    content = data.read_bytes()
    assert content.count(b"episode_return/mean") >= 150
    assert b"-checkpoint" in content
    assert os.path.exists(folder)
