import json
import os
import re
from pathlib import Path

import pytest

from marl.errors import InputError
from marl.launchers.run.run_directory import RunDirectory, default_run_path

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


def test_default_paths_are_plain_and_new(tmp_path):
    first = default_run_path("mappo", "envs.matrix_games:two step/é", 3, root=tmp_path)
    assert re.fullmatch(r"mappo-envs\.matrix_games-two-step-seed3-\d{8}-\d{6}", first.name)
    RunDirectory.create(first, CONFIG)
    second = default_run_path("mappo", "envs.matrix_games:two step/é", 3, root=tmp_path)
    assert second != first
    assert default_run_path("a", "b", 0).parent == Path("runs")
