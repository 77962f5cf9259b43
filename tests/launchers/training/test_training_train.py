"""Training runs: what they leave, and the environments that they take as they are."""

import json
import re

import pytest
from command_line import SHORT, SPREAD, rows_of
from saved_runs import TINY, same_state

from marl.checkpoints.checkpoint import list_checkpoints


def test_run_directory_holds_what_the_design_says(spread_run):
    assert {path.name for path in spread_run.iterdir()} == {
        "config.json",
        "metrics.jsonl",
        "checkpoints",
        "summary.json",
        "learning_curve.png",
    }
    config = json.loads((spread_run / "config.json").read_text())
    assert (config["name"], config["env"], config["seed"], config["steps"]) == ("mappo", SPREAD, 0, 300)
    assert config["algorithm"]["rollout_length"] == 25
    summary = json.loads((spread_run / "summary.json").read_text())
    assert {
        "evaluation/return_mean",
        "evaluation/return_ci95",
        "env_steps_per_second",
        "wall_seconds",
    } <= summary.keys()
    assert (summary["env_steps"], summary["updates"], summary["ranks"]) == (300, 3, 1)
    assert [path.name for path in list_checkpoints(spread_run / "checkpoints")] == ["000000000100", "000000000300"]
    assert (spread_run / "learning_curve.png").read_bytes().startswith(b"\x89PNG")


def test_a_row_an_update_tells_returns_losses_and_speed(spread_run):
    rows = rows_of(spread_run)
    assert [row["updates"] for row in rows] == [1, 2, 3]
    assert [row["env_steps"] for row in rows] == [100, 200, 300]
    for row in rows:
        assert {"wall_seconds", "env_steps_per_second", "agent/policy_loss", "agent/value_loss"} <= row.keys()
        agents = [row[f"episode_return/agent_{index}"] for index in range(3)]
        assert row["episode_return/mean"] == pytest.approx(sum(agents))
        assert row["env_steps_per_second"] > 0


def test_nothing_executable_is_saved(spread_run):
    suffixes = {path.suffix for path in spread_run.rglob("*") if path.is_file()}
    assert suffixes == {".json", ".jsonl", ".safetensors", ".png"}


def test_without_out_a_new_run_goes_under_runs(marl, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = marl("train", "ippo", "toy_game:make", "--steps", 8, *SHORT, *TINY)
    assert done.code == 0, done
    (run,) = (tmp_path / "runs").iterdir()
    assert re.fullmatch(r"ippo-toy_game-make-seed0-\d{8}-\d{6}", run.name)
    assert f"into {run}" in done.stdout.splitlines()[0]


def test_equal_seeds_give_equal_runs(marl, tmp_path):
    for name, seed in (("one", 3), ("same", 3), ("other", 4)):
        marl("train", "ippo", SPREAD, "--steps", 32, *SHORT, *TINY, "--seed", seed, "--out", tmp_path / name)
    assert same_state(tmp_path / "one", tmp_path / "same")
    assert not same_state(tmp_path / "one", tmp_path / "other")


PISTONBALL = ("--preprocessing.grey", "--preprocessing.resize", "21", "21", "--preprocessing.frame-stack", "2")


KINDS = {
    "parallel": ("mappo", SPREAD),
    "ippo": ("ippo", SPREAD),
    "continuous": ("mappo", SPREAD, "--env-kwargs", '{"continuous_actions": true}'),
    "recurrent": ("mappo", SPREAD, "--algorithm.recurrent", "--algorithm.chunk-length", "2"),
    "separate": ("mappo", SPREAD, "--algorithm.sharing", "none"),
    "different spaces": ("mappo", "mpe2.simple_speaker_listener_v4"),
    "batched": ("mappo", SPREAD, "--backend", "batched"),
    "matrix game": ("mappo", "envs.matrix_games:two_step"),
    "turns and masks": ("mappo", "classic/tictactoe-v3"),
    "never an illegal action": ("ippo", "toy_game:strict_tictactoe", "--steps", "400", "--env-failures", "0"),
    "images": ("mappo", "butterfly/pistonball-v6", *PISTONBALL, "--env-kwargs", '{"n_pistons": 4, "max_cycles": 8}'),
    "agents that die": ("mappo", "butterfly/knights_archers_zombies-v11", "--env-kwargs", '{"max_cycles": 12}'),
    "pursuit": ("mappo", "sisl/pursuit-v5", "--env-kwargs", '{"max_cycles": 8, "n_evaders": 4, "n_pursuers": 3}'),
    "openspiel": ("mappo", "openspiel/kuhn_poker"),
}


NEEDS = {"images": "pymunk", "agents that die": "pygame", "pursuit": "pygame", "openspiel": "pyspiel"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # those of pygame and pyspiel are not ours
def test_it_trains_on(kind, marl, tmp_path):
    if kind in NEEDS:
        pytest.importorskip(NEEDS[kind])
    algorithm, env, *argv = KINDS[kind]
    if "--steps" not in argv:
        argv += ["--steps", "32"]
    if kind in ("images", "agents that die", "pursuit"):
        argv += ["--num-envs", "2", "--row-every", "1", "--evaluation-episodes", "1"]
    else:
        argv += [*SHORT]
    done = marl("train", algorithm, env, *TINY, *argv, "--out", tmp_path / "run")
    assert done.code == 0, done
    rows = rows_of(tmp_path / "run")
    assert len(rows) >= 2
    assert all(value is not None for row in rows for value in row.values())
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["evaluation/return_mean"] == pytest.approx(
        sum(value for key, value in summary.items() if key.startswith("evaluation/return/"))
    )
