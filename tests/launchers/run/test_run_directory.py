import concurrent.futures
import contextlib
import functools
import json
import os
import re
import shutil

import pytest

from marl.errors import InputError
from marl.launchers.run.run_directory import RunDirectory, new_run_path

CONFIG = {"algorithm": "mappo", "seed": 1, "settings": {"learning_rate": 7e-4, "hidden_sizes": [64, 64]}, "extra": {}}


def test_a_run_directory_is_made_with_its_config_and_an_identity(tmp_path):
    run = RunDirectory.create(tmp_path / "runs" / "a", CONFIG)
    assert os.listdir(run.path) == ["config.json"]
    config = json.loads((run.path / "config.json").read_text())
    assert config == {**CONFIG, "run_id": run.run_id}
    assert re.fullmatch("[0-9a-f]{8}", run.run_id)
    again = RunDirectory.open(run.path)
    assert again == run
    assert again.config == config
    assert RunDirectory.create(tmp_path / "b", CONFIG).run_id != run.run_id
    assert (run.metrics.name, run.checkpoints.name, run.learning_curve.name) == (
        "metrics.jsonl",
        "checkpoints",
        "learning_curve.png",
    )


def test_an_empty_folder_may_become_a_run(tmp_path):
    assert RunDirectory.create(tmp_path, CONFIG).path == tmp_path


def test_an_existing_run_is_refused_and_not_touched(tmp_path):
    run = RunDirectory.create(tmp_path / "a", CONFIG)
    before = (run.path / "config.json").read_bytes()
    with pytest.raises(InputError, match=r"--resume or choose another --out"):
        RunDirectory.create(run.path, {"algorithm": "ippo"})
    assert (run.path / "config.json").read_bytes() == before
    assert os.listdir(run.path) == ["config.json"]


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(InputError, match="not empty"):
        RunDirectory.create(tmp_path, CONFIG)
    with pytest.raises(InputError, match="is a file"):
        RunDirectory.create(tmp_path / "thesis.tex", CONFIG)
    with pytest.raises(InputError, match="cannot make"):
        RunDirectory.create(tmp_path / "thesis.tex" / "run", CONFIG)
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_nothing_is_left_when_the_config_cannot_be_written(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="No space left on device"):
        RunDirectory.create(tmp_path / "runs" / "a", CONFIG)
    assert os.listdir(tmp_path) == []


def test_what_is_no_run_is_not_opened(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        RunDirectory.open(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"no config\.json"):
        RunDirectory.open(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[1]", "\0\0"])
def test_a_damaged_config_is_reported(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError, match=r"config\.json is damaged"):
        _ = RunDirectory.open(tmp_path).config


def test_a_summary_is_replaced_whole(tmp_path):
    run = RunDirectory.create(tmp_path / "a", CONFIG)
    assert run.summary is None
    run.write_summary({"env_steps": 1})
    run.write_summary({"env_steps": 2, "evaluation/return_mean": -36.5})
    assert run.summary == {"env_steps": 2, "evaluation/return_mean": -36.5}
    assert sorted(os.listdir(run.path)) == ["config.json", "summary.json"]


def test_a_failed_replacement_leaves_the_old_file(tmp_path, monkeypatch):
    run = RunDirectory.create(tmp_path / "a", CONFIG)
    run.write_summary({"env_steps": 1})

    def full(descriptor):
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(InputError, match=r"summary\.json: No space left"):
            run.write_summary({"env_steps": 2})
    assert run.summary == {"env_steps": 1}
    assert sorted(os.listdir(run.path)) == ["config.json", "summary.json"]


def test_the_identity_outlives_a_changed_config(tmp_path):
    run = RunDirectory.create(tmp_path / "a", CONFIG)
    identity = run.run_id
    run.write_config({**CONFIG, "steps": 2})
    assert run.run_id == identity
    assert run.config["steps"] == 2


def test_names_of_runs_are_plain_and_their_own_however_many_begin_in_one_second(tmp_path):
    name = ("mappo", "envs.matrix_games:two step/é", 3)
    with contextlib.ExitStack() as held:
        paths = [held.enter_context(new_run_path(*name, root=tmp_path / "runs")) for _ in range(20)]
        assert re.fullmatch(r"mappo-envs\.matrix_games-two-step-seed3-\d{8}-\d{6}", paths[0].name)
        assert len(set(paths)) == 20
        RunDirectory.create(paths[4], CONFIG)
    # Names under which no run began are free again.
    assert list((tmp_path / "runs").iterdir()) == [paths[4]]


def test_runs_are_named_under_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with new_run_path("a", "b", 0) as path:
        assert path.parent == tmp_path / "runs"
    assert list(tmp_path.iterdir()) == []


def test_a_claimed_folder_is_nobody_elses(tmp_path, monkeypatch):
    monkeypatch.setattr(RunDirectory, "locked", functools.partialmethod(RunDirectory.locked, patience=0.0))
    path = tmp_path / "runs" / "a"
    with RunDirectory.claimed(path) as run:
        with pytest.raises(InputError, match=r"another process is at work on .*; stop it first"):
            RunDirectory.create(path, {"algorithm": "ippo"})
        run.begin(CONFIG)
        with pytest.raises(InputError, match=r"holds a run already"):
            RunDirectory.create(path, {"algorithm": "ippo"})
    assert RunDirectory.open(path).config == {**CONFIG, "run_id": run.run_id}


def test_of_those_that_wait_for_a_folder_one_begins(tmp_path):
    def begin(number):
        try:
            return RunDirectory.create(tmp_path / "a", {"number": number}).config["number"]
        except InputError as error:
            assert re.search("holds a run already|is at work|is not empty", str(error))  # noqa: PT017
            return None

    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        winners = [number for number in threads.map(begin, range(8)) if number is not None]
    assert winners == [RunDirectory.open(tmp_path / "a").config["number"]]


def test_a_folder_that_was_removed_meanwhile_is_not_held(tmp_path, monkeypatch):
    run = RunDirectory.create(tmp_path / "a", CONFIG)

    def remove(descriptor, operation):
        shutil.rmtree(run.path)

    monkeypatch.setattr("fcntl.flock", remove)
    with pytest.raises(InputError, match="removed"), run.locked():
        pass
