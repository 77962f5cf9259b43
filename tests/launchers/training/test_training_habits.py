"""Environments with bad habits cost neither results nor files."""

import json
import logging
import os

import pytest
from command_line import SHORT, rows_of
from saved_runs import TINY, same_state

from marl.core import EnvironmentRequest
from marl.envs.factory import make_factory
from marl.launchers.tournament.games_file import GamesFile
from marl.resources import closing

TRAIN = ("--steps", 32, *SHORT, *TINY, "--compile", "no")


@pytest.mark.parametrize("command", ["train", "league"])
@pytest.mark.parametrize("kind", ["NotImplementedError", "AttributeError", "SystemExit"])
def test_a_close_that_raises_costs_one_line(marl, tmp_path, monkeypatch, caplog, command, kind):
    monkeypatch.setattr(closing, "_told", set())
    run = tmp_path / "run"
    done = marl(
        command, "ippo", "untidy_games:ends_badly", *TRAIN, "--env-kwargs", json.dumps({"kind": kind}), "--out", run
    )
    assert done.code == 0, done
    (line,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert line.startswith(f"marl: closing an environment raised {kind}")
    assert line.endswith("; nothing is lost by it")
    assert "\n" not in line
    assert "evaluation: return" in done.stdout
    assert "evaluation/return_mean" in json.loads((run / "summary.json").read_text())
    assert marl("evaluate", run, "--episodes", 2).code == 0


def test_all_other_copies_are_closed(monkeypatch):
    closed = []

    def close(self):
        closed.append(self)
        raise OSError("its file is gone")

    monkeypatch.setattr("untidy_games.EndsBadly.close", close)
    environment = make_factory("untidy_games:ends_badly")(EnvironmentRequest(num_envs=3))
    environment.close()
    assert len(set(closed)) == 4  # and the probe
    environment.close()
    assert len(closed) == 4


def test_errors_of_a_kind_are_told_once_and_by_one_rank(monkeypatch, caplog):
    monkeypatch.setattr(closing, "_told", set())
    factory = make_factory("untidy_games:ends_badly")
    factory(EnvironmentRequest(num_envs=2, first_env=2)).close()
    assert caplog.records == []
    for _ in range(2):
        factory(EnvironmentRequest(num_envs=2)).close()
    assert len(caplog.records) == 1


def test_a_logger_whose_close_raises_costs_one_line(marl, tmp_path, monkeypatch):
    def fail(self):
        raise RuntimeError("the terminal is gone")

    monkeypatch.setattr("marl.loggers.TerminalLogger.close", fail)
    done = marl("train", "ippo", "toy_game:make", *TRAIN, "--out", tmp_path / "run")
    assert done.code == 0
    (line,) = done.stderr.splitlines()
    assert line == "marl: closing a logger raised RuntimeError: the terminal is gone; the journal has all rows"
    assert (tmp_path / "run" / "summary.json").exists()


@pytest.mark.parametrize("when", ["made", "reset", "step"])
@pytest.mark.parametrize("command", ["train", "league"])
def test_a_run_is_in_one_folder_wherever_its_environment_leads_the_process(marl, tmp_path, monkeypatch, command, when):
    home, away = tmp_path / "home", tmp_path / "away"
    home.mkdir()
    monkeypatch.chdir(home)
    monkeypatch.setenv("WANDERS_TO", str(away))
    argv = (command, "ippo", "untidy_games:wanders", "--env-kwargs", json.dumps({"when": when}), *SHORT, *TINY)
    saves = ("--save-steps", 16) if command == "league" else ("--tensorboard",)
    for steps, more in ((16, ()), (32, ("--resume",))):
        os.chdir(home)
        done = marl(*argv, *saves, "--steps", steps, "--out", "run", *more)
        assert done.code == 0, done
    assert list(away.iterdir()) == []
    assert [row["env_steps"] for row in rows_of(home / "run")] == [16, 32]
    for name in ("summary.json", "learning_curve.png", "checkpoints"):
        assert (home / "run" / name).exists()
    os.chdir(home)
    assert marl("evaluate", "run", "--episodes", 2).code == 0
    os.chdir(home)
    assert marl("plot", "run", "--out", "curve.png").code == 0
    assert (home / "curve.png").exists()


def test_without_out_too(marl, tmp_path, monkeypatch):
    home, away = tmp_path / "home", tmp_path / "away"
    home.mkdir()
    monkeypatch.chdir(home)
    monkeypatch.setenv("WANDERS_TO", str(away))
    assert marl("train", "ippo", "untidy_games:wanders", *TRAIN).code == 0
    (run,) = (home / "runs").iterdir()
    assert (run / "summary.json").exists()
    assert list(away.iterdir()) == []


def test_players_of_a_tournament_are_found_after_the_first_has_led_elsewhere(marl, tmp_path, monkeypatch):
    home, away = tmp_path / "home", tmp_path / "away"
    home.mkdir()
    monkeypatch.chdir(home)
    monkeypatch.setenv("WANDERS_TO", str(away))
    for name in ("a", "b"):
        os.chdir(home)
        assert marl("train", "ippo", "untidy_games:wanders", *TRAIN, "--out", name).code == 0
    for games in (4, 4):  # the second time it goes on, with nothing left to play
        os.chdir(home)
        done = marl("tournament", "untidy_games:wanders", "--players", "a", "b", "--games", games, "--out", "t")
        assert done.code == 0, done
    assert list(away.iterdir()) == []
    assert GamesFile(home / "t" / "games.jsonl").count() == 4
    players = json.loads((home / "t" / "config.json").read_text())["players"]
    # As they were named, so that a folder of runs can be moved.
    assert players["a"]["checkpoint"].startswith("a/checkpoints/")
    assert same_state(home / "a", home / "b")
