"""Off-policy algorithms from the command line: training, resuming with and without replay, and what is refused."""

import json
import math
import re

import pytest
import torch
from command_line import SPREAD, rows_of
from saved_runs import timeless

from marl.checkpoints.checkpoint import load_checkpoint
from marl.launchers.run.catalog import ALGORITHMS

OFF_POLICY = [name for name, variant in ALGORITHMS.items() if not variant.build(variant.default_config()).on_policy]
CONTINUOUS = ("--env-kwargs", '{"continuous_actions": true}')
TINY = (
    *("--recipe", "none", "--num-envs", 4, "--row-every", 1, "--evaluation-episodes", 2),
    *("--algorithm.replay.min-size", 40, "--algorithm.replay.batch-size", 16, "--algorithm.replay.capacity", 400),
    *("--algorithm.hidden-sizes", 8),
)
"""Learning begins after 10 steps of 4 copies; there are about two updates a step."""


@pytest.mark.parametrize("algorithm", OFF_POLICY)
def test_every_algorithm_trains_evaluates_and_goes_on(marl, tmp_path, algorithm):
    argv = ("train", algorithm, SPREAD, *TINY, "--out", tmp_path / "run")
    argv += CONTINUOUS if algorithm in ("matd3", "masac") else ()
    done = marl(*argv, "--steps", 120)
    assert done.code == 0, done
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["env_steps"] == 120
    assert {"value", "critic_loss", "loss"} & {name.rpartition("/")[2] for name in rows_of(tmp_path / "run")[-1]}
    done = marl("evaluate", tmp_path / "run", "--episodes", 2, "--json")
    assert done.code == 0, done
    assert math.isfinite(json.loads(done.stdout)["evaluation/return_mean"])
    done = marl(*argv, "--steps", 200, "--resume")
    assert done.code == 0, done
    assert "replay was not saved (--checkpoint-replay) and starts empty" in done.stdout
    rows = rows_of(tmp_path / "run")
    assert rows[-1]["env_steps"] == 200
    # Learning waits for as many items as at first.
    assert 160 in (row["env_steps"] for row in rows)
    assert not any(120 < row["env_steps"] < 160 for row in rows)
    assert rows[-1]["updates"] > rows[-2]["updates"]


@pytest.mark.parametrize(
    ("algorithm", "argv"),
    [
        ("qmix", ("--algorithm.recurrent", "--algorithm.sequence-length", 5, "--algorithm.burn-in", 2)),
        ("vdn", ("--algorithm.n-step", 3, "--algorithm.standardize-rewards", "--algorithm.recurrent")),
        ("matd3", (*CONTINUOUS, "--algorithm.noise", "ornstein-uhlenbeck", "--algorithm.policy-delay", 5)),
        ("masac", ()),
    ],
)
def test_with_its_replay_a_resumed_run_equals_an_undisturbed_one(marl, tmp_path, algorithm, argv):
    argv = ("train", algorithm, SPREAD, *TINY, *argv, "--checkpoint-replay", "--out")
    assert marl(*argv, tmp_path / "whole", "--steps", 220).code == 0
    assert marl(*argv, tmp_path / "parts", "--steps", 132).code == 0
    done = marl(*argv, tmp_path / "parts", "--steps", 220, "--resume")
    assert (done.code, "starts empty" in done.stdout) == (0, False)
    whole, parts = (load_checkpoint(tmp_path / name / "checkpoints").tensors for name in ("whole", "parts"))
    assert "envs.dataset.replay.records" in whole
    assert whole.keys() == parts.keys()
    for name, tensor in whole.items():
        assert torch.equal(tensor, parts[name]), name
    assert timeless(rows_of(tmp_path / "parts")) == timeless(rows_of(tmp_path / "whole"))


def test_replay_need_not_be_saved_again_by_the_run_that_took_it_up(marl, tmp_path):
    argv = ("train", "iql", SPREAD, *TINY, "--out", tmp_path / "run")
    assert marl(*argv, "--steps", 120, "--checkpoint-replay").code == 0
    done = marl(*argv, "--steps", 160, "--resume")
    assert (done.code, "starts empty" in done.stdout) == (0, False)
    assert min(row["env_steps"] for row in rows_of(tmp_path / "run") if row["env_steps"] > 120) == 124
    names = load_checkpoint(tmp_path / "run" / "checkpoints").tensors
    assert not [name for name in names if name.startswith("envs.dataset")]


def replay(**settings):
    return [
        word for name, value in settings.items() for word in (f"--algorithm.replay.{name.replace('_', '-')}", value)
    ]


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        (("mappo", SPREAD, "--checkpoint-replay"), "--checkpoint-replay is for algorithms with replay"),
        (
            ("qmix", SPREAD, *replay(capacity=10**13)),
            r"needs .* GiB .*, but .* GiB are free .*; lower --algorithm.replay.cap",
        ),
        (("maddpg", SPREAD, *replay(capacity=5000, min_size=100, batch_size=5001)), "a batch of 5,001 never fits"),
        (("vdn", SPREAD, *replay(batch_size=3000, min_size=10), "--steps", 2000), "learning would never begin"),
        (("masac", SPREAD, "--steps", 4000), "waits for 5,000 items of replay, but 4,000 steps make 4,096 at most"),
        (
            ("iql", SPREAD, *replay(capacity=300, batch_size=10, min_size=301)),
            "begins at 301 items, but replay holds 256",
        ),
        (("isac", SPREAD, *replay(capacity=100)), "capacity 100 is below one item for each of 128 environment copies"),
        (
            ("maddpg", SPREAD, *replay(samples_per_insert=0)),
            "--algorithm.replay.samples-per-insert must be a number above 0, not 0",
        ),
        (("qplex", SPREAD, *replay(samples_per_insert="nan")), "--algorithm.replay.samples-per-insert takes a number"),
        (("qmix", SPREAD, *replay(tolerance=1)), "cannot hold 8.0 samples per insert with batches of 256"),
        (("qmix", SPREAD, "--algorithm.no-team-reward"), "individual rewards, as in a competitive game; .* use iql"),
        (("vdn", "envs.matrix_games:rock_paper_scissors", *TINY, "--steps", 80), "rewards add up to 0 .* use iql"),
        (("iql", SPREAD, *CONTINUOUS), "has continuous actions, but Q-learners need one discrete choice"),
        (("qmix", SPREAD, *CONTINUOUS), "maddpg for continuous actions"),
        (("qmix", "toy_game:strict_tictactoe"), "this game is turn-based"),
        (("maddpg", "toy_game:strict_tictactoe"), "this game is turn-based"),
        (("matd3", SPREAD, "--algorithm.policy-delay", 0), "--algorithm.policy-delay must be at least 1"),
        (("masac", SPREAD, "--algorithm.hidden-sizes", 0), "--algorithm.hidden-sizes needs at least one width"),
        (("vdn", SPREAD, "--algorithm.mixer", "qmix"), "is fixed by the algorithm's name: vdn"),
    ],
)
def test_what_cannot_work_is_refused_and_leaves_nothing_behind(refused, tmp_path, argv, reason):
    line = refused("train", *argv, "--recipe", "none", "--out", tmp_path / "run")
    assert re.search(reason, line), line
    assert not (tmp_path / "run").exists()
