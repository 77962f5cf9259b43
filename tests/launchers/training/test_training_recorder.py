"""The files of a training run: trackers, existing folders, full disks."""

import contextlib
import datetime
import errno
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
from command_line import SHORT, SPREAD, quietly, rows_of
from saved_runs import TINY, newest, same_state

from marl.errors import InputError
from marl.launchers.main import main
from marl.launchers.run.run_directory import RunDirectory
from marl.launchers.training.recorder import RunRecorder
from marl.loggers import TerminalLogger
from marl.loggers.wandb import WandbLogger


def test_wandb_offline_and_tensorboard_are_written_beside_the_journal(marl, tmp_path):
    run = tmp_path / "run"
    argv = ("train", "ippo", "toy_game:make", "--steps", 32, *SHORT, *TINY, "--out", run)
    done = marl(*argv, "--wandb", "offline", "--tensorboard")
    assert (done.code, done.stderr) == (0, "")
    assert list((run / "wandb").glob("offline-run-*/*.wandb"))
    assert list((run / "tensorboard").glob("events.*"))
    assert len(rows_of(run)) == 2


def test_unreachable_wandb_costs_one_warning(marl, tmp_path, monkeypatch):
    class Impatient(WandbLogger):
        def __init__(self, *argv, **settings):
            super().__init__(*argv, **settings, init_timeout=1.0, finish_timeout=1.0)

    monkeypatch.setattr("marl.launchers.reports.trackers.WandbLogger", Impatient)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    run = tmp_path / "run"
    done = marl("train", "ippo", "toy_game:make", "--steps", 32, *SHORT, *TINY, "--out", run, "--wandb", "online")
    assert done.code == 0, done
    (line,) = done.stderr.splitlines()
    assert "W&B is not available" in line
    assert len(rows_of(run)) == 2
    assert (run / "summary.json").exists()
    secret = b"0" * 40
    assert not any(secret in path.read_bytes() for path in run.rglob("*") if path.is_file())


def test_resuming_a_finished_run_is_one_line(marl, spread_run):
    before = {path: path.read_bytes() for path in spread_run.rglob("*") if path.is_file()}
    argv = ("train", "mappo", SPREAD, "--steps", 300, *SHORT, "--resume", "--out", spread_run)
    for ranks in ((), ("--ranks", 2)):
        done = marl(*argv, *ranks)
        assert (done.code, done.stderr) == (0, "")
        assert done.stdout == f"{spread_run} is finished: 300 of 300 steps; --steps with more lengthens it\n"
    assert {path: path.read_bytes() for path in spread_run.rglob("*") if path.is_file()} == before


def test_what_ranks_of_a_finished_run_left_is_removed_unless_somebody_is_at_work_on_it(marl, spread_run, tmp_path):
    run, argv = tmp_path / "run", ("train", "mappo", SPREAD, "--steps", 300, *SHORT, "--resume", "--out")
    shutil.copytree(spread_run, run)
    (run / "ranks").mkdir()
    (run / "ranks" / "0.beat").write_bytes(b"killed after the summary was written")
    with RunDirectory.open(run).locked():
        assert marl(*argv, run).code == 0
        assert (run / "ranks").exists()
    assert marl(*argv, run).code == 0
    assert not (run / "ranks").exists()


def test_two_processes_do_not_write_to_one_run(refused, spread_run, monkeypatch):
    monkeypatch.setattr(RunDirectory.locked, "__kwdefaults__", {"patience": 0.2}, raising=False)
    with RunDirectory.open(spread_run).locked():
        line = refused("train", "mappo", SPREAD, "--steps", 400, *SHORT, "--resume", "--out", spread_run)
    assert line == f"another process is at work on {spread_run}; stop it first"


def test_what_another_process_does_to_a_run_is_never_undone_by_resuming_it(refused, tmp_path, monkeypatch):
    monkeypatch.setattr(RunDirectory.locked, "__kwdefaults__", {"patience": 0.2}, raising=False)
    argv = ("train", "ippo", "toy_game:make", *SHORT, *TINY, "--steps", 64, "--out", tmp_path / "run")
    quietly(*argv)
    run = RunDirectory.open(tmp_path / "run")
    # The other process has begun, and has no checkpoint yet.
    shutil.rmtree(run.checkpoints)
    (run.path / "summary.json").unlink()
    run.metrics.write_text('{"updates": 1, "env_steps": 16}\n')
    before = {path: path.read_bytes() for path in run.path.rglob("*")}
    with run.locked():
        line = refused(*argv, "--resume")
        assert line == f"another process is at work on {run.path}; stop it first"
        assert {path: path.read_bytes() for path in run.path.rglob("*")} == before


@pytest.mark.parametrize("finished", [True, False])
def test_a_resumed_run_goes_by_what_the_other_process_left_when_it_ended(marl, tmp_path, finished):
    """The second process waits for the first one's last files, and then decides."""
    run, other = tmp_path / "run", tmp_path / "other"
    argv = ("train", "ippo", "toy_game:make", *SHORT, *TINY)
    assert marl(*argv, "--steps", 32, "--out", other).code == 0
    run.mkdir()
    for name in ("config.json", "metrics.jsonl"):
        shutil.copy(other / name, run)
    held = contextlib.ExitStack()
    held.enter_context(RunDirectory.open(run).locked())

    def end():
        shutil.copytree(other / "checkpoints", run / "checkpoints")
        shutil.copy(other / "summary.json", run)
        held.close()

    timer = threading.Timer(0.5, end)
    timer.start()
    done = marl(*argv, "--steps", 32 if finished else 64, "--resume", "--out", run)
    timer.join()
    assert done.code == 0, done
    assert ("is finished: 32 of 32 steps" in done.stdout) is finished
    assert "begins anew" not in done.stdout
    assert [row["updates"] for row in rows_of(run)] == ([1, 2] if finished else [1, 2, 3, 4])
    assert same_state(run, other) is finished


def test_a_real_second_process_leaves_a_run_alone_while_it_is_trained(start, refused, tmp_path, monkeypatch):
    monkeypatch.setattr(RunDirectory.locked, "__kwdefaults__", {"patience": 0.2}, raising=False)
    run = tmp_path / "run"
    argv = ("train", "ippo", "toy_game:make", *SHORT, *TINY, "--compile", "no", "--out", run)
    process = start(*argv, "--steps", 10**8)
    end = time.monotonic() + 60
    tries = 0
    while not ((run / "metrics.jsonl").exists() and len(rows_of(run)) > 200):
        assert time.monotonic() < end
        if (run / "config.json").exists():
            line = refused(*argv, "--steps", 160, "--resume")
            assert line == f"another process is at work on {run}; stop it first"
            tries += 1
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, tries > 0) == (75, True), (stdout, stderr)
    updates = [row["updates"] for row in rows_of(run)]
    assert updates == list(range(1, len(updates) + 1))
    assert newest(run).step == 16 * len(updates)


@pytest.mark.parametrize("command", ["train", "league"])
def test_runs_that_begin_in_the_same_second_have_folders_of_their_own(marl, start, tmp_path, monkeypatch, command):
    class Now(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2026, 1, 1)

    monkeypatch.setattr("marl.launchers.run.run_directory.datetime", Now)
    monkeypatch.chdir(tmp_path)
    argv = (command, "ippo", "toy_game:strict_tictactoe", "--steps", 16, *SHORT, *TINY)

    def at_once():
        return marl(*argv)

    inside = []

    def begin(self):
        # A second run begins while the first is between its name and its first file.
        if not inside:
            inside.append(True)
            assert at_once().code == 0
        return claim(self)

    claim = RunRecorder.claim
    monkeypatch.setattr(RunRecorder, "claim", begin)
    assert at_once().code == 0
    names = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert len(names) == 2
    assert names[1] == f"{names[0]}-2"
    assert all((tmp_path / "runs" / name / "summary.json").exists() for name in names)


def test_a_refused_run_leaves_no_name_behind(refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused("train", "ippo", "toy_game:make", "--algorithm.minibatches", 10**6, *SHORT, *TINY)
    assert list(tmp_path.iterdir()) == []


def test_the_error_of_a_checkpoint_is_told_when_the_run_fails_of_something_else(marl, tmp_path, monkeypatch):
    def full(directory, step, tensors, metadata):
        raise InputError("the disk is full")

    monkeypatch.setattr("marl.checkpoints.checkpointer.save_checkpoint", full)
    calls = []

    def fail(self, row):
        calls.append(row)
        if len(calls) == 2:
            time.sleep(0.2)
            raise RuntimeError("the terminal is gone")

    monkeypatch.setattr(TerminalLogger, "write", fail)
    argv = ("--checkpoint-every", 16, "--steps", 64, "--out", tmp_path / "run")
    done = marl("train", "ippo", "toy_game:make", *SHORT, *TINY, *argv)
    assert done.code == 1
    lines = done.stderr.splitlines()
    assert "marl: the disk is full" in lines
    assert lines[-1] == "RuntimeError: the terminal is gone"


def test_a_disk_that_is_full_before_the_first_checkpoint_says_how_to_go_on(marl, refused, tmp_path, monkeypatch):
    run = tmp_path / "run"
    argv = ("train", "ippo", "toy_game:make", *SHORT, *TINY, "--steps", 64, "--out", run)
    with monkeypatch.context() as patch:
        fill_disk(patch, run / "checkpoints")
        line = refused(*argv)
    assert "cannot write the checkpoint of step 16" in line
    assert line.endswith("there is no checkpoint yet, so --resume begins the run anew")
    assert marl(*argv, "--resume").code == 0
    assert [row["updates"] for row in rows_of(run)] == [1, 2, 3, 4]


def test_an_existing_run_directory_is_left_alone(refused, spread_run):
    before = {path: path.read_bytes() for path in spread_run.rglob("*") if path.is_file()}
    for argv in ((), ("--ranks", 2)):
        line = refused("train", "mappo", SPREAD, *SHORT, *argv, "--out", spread_run)
        assert line == f"{spread_run} holds a run already; continue it with --resume or choose another --out"
    assert {path: path.read_bytes() for path in spread_run.rglob("*") if path.is_file()} == before


def test_a_folder_of_other_things_is_left_alone(refused, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    assert "is not empty" in refused("train", "ippo", "toy_game:make", *SHORT, "--out", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_resume_needs_a_run_of_the_same_configuration(refused, spread_run, tmp_path):
    argv = ("--steps", 400, "--row-every", 1, "--evaluation-episodes", 2, "--resume")
    assert refused("train", "mappo", SPREAD, *argv) == "--resume needs --out: which run?"
    assert "there is no such folder" in refused("train", "mappo", SPREAD, *argv, "--out", tmp_path / "run")
    before = {path: path.read_bytes() for path in spread_run.rglob("*") if path.is_file()}
    for changed, difference in (
        (("mappo", SPREAD, "--num-envs", 8), "num_envs was 4, now 8"),
        (("mappo", SPREAD, "--num-envs", 4, "--seed", 1), "seed was 0, now 1"),
        (("mappo", SPREAD, "--num-envs", 4, "--env-kwargs", '{"N": 4}'), "env_kwargs"),
        (("ippo", SPREAD, "--num-envs", 4), 'name was "mappo", now "ippo"'),
        (("mappo", "mpe2.simple_v3", "--num-envs", 4), f'env was "{SPREAD}", now "mpe2.simple_v3"'),
        (
            ("mappo", SPREAD, "--num-envs", 4, "--algorithm.clip-epsilon", "0.1"),
            "algorithm.clip_epsilon was 0.2, now 0.1",
        ),
    ):
        line = refused("train", *changed, *argv, "--out", spread_run)
        assert line.startswith(f"cannot resume {spread_run} with another configuration: ")
        assert difference in line
    assert {path: path.read_bytes() for path in spread_run.rglob("*") if path.is_file()} == before


def fill_disk(monkeypatch, inside: Path) -> None:
    """From now on nothing can be written into files in this folder."""
    write = os.write

    def full(descriptor, data):
        if str(inside) in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", full)


def test_on_a_full_disk_no_run_begins(refused, tmp_path, monkeypatch):
    fill_disk(monkeypatch, tmp_path / "run")
    line = refused("train", "ippo", "toy_game:make", *SHORT, *TINY, "--out", tmp_path / "run")
    assert "No space left on device; free some space" in line
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_leaves_whole_checkpoints_and_rows(marl, refused, tmp_path, monkeypatch):
    run = tmp_path / "run"
    argv = ("train", "ippo", "toy_game:make", *SHORT, *TINY, "--out", run)
    assert marl(*argv, "--steps", 32).code == 0
    state = newest(run).tensors
    with monkeypatch.context() as patch:
        fill_disk(patch, run / "checkpoints")
        line = refused(*argv, "--steps", 64, "--resume")
    assert "cannot write the checkpoint of step 64" in line
    assert "No space left on device" in line
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["000000000016", "000000000032"]
    assert all(torch.equal(tensor, state[name]) for name, tensor in newest(run).tensors.items())
    # With space again, it goes on where the last whole checkpoint stands.
    assert main([str(word) for word in (*argv, "--steps", 64, "--resume")]) == 0
    assert [row["updates"] for row in rows_of(run)] == [1, 2, 3, 4]


def test_a_disk_that_is_full_at_a_row_leaves_whole_rows(marl, refused, tmp_path, monkeypatch):
    run = tmp_path / "run"
    argv = ("train", "ippo", "toy_game:make", *SHORT, *TINY, "--out", run)
    assert marl(*argv, "--steps", 32).code == 0
    with monkeypatch.context() as patch:
        fill_disk(patch, run / "metrics.jsonl")
        line = refused(*argv, "--steps", 64, "--resume")
    assert line.startswith(f"cannot write {run / 'metrics.jsonl'}: No space left on device")
    assert [row["updates"] for row in rows_of(run)] == [1, 2]
