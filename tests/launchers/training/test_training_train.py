import errno
import json
import os
import re
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
from command_line import SHORT, SPREAD, rows_of

from marl.checkpoints.checkpoint import list_checkpoints, load_checkpoint
from marl.distributed.communicators import SerialCommunicator
from marl.errors import InputError
from marl.experiments.usage import MACHINE
from marl.launchers.main import main
from marl.launchers.mpi import ranks as mpi
from marl.launchers.run.recipes import RECIPES
from marl.launchers.run.run_directory import RunDirectory
from marl.loggers import TerminalLogger
from marl.loggers.wandb import WandbLogger

RECIPE = RECIPES["mappo", SPREAD].__name__
TINY = ("--algorithm.rollout-length", "4", "--algorithm.epochs", "1", "--algorithm.hidden-sizes", "16")


def newest(run):
    return load_checkpoint(run / "checkpoints")


def same_state(one, other):
    """Whether two runs stand at exactly the same point: parameters, optimizers, environments, streams."""
    first, second = newest(one).tensors, newest(other).tensors
    different = [name for name in first if not torch.equal(first[name], second[name])]
    return (first.keys() == second.keys(), different) == (True, [])


def timeless(rows):
    return [{key: value for key, value in row.items() if key not in MACHINE} for row in rows]


# What is in a run directory


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
    assert [path.name for path in list_checkpoints(spread_run / "checkpoints")] == ["000000000300"]
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
    assert f"into runs/{run.name}" in done.stdout.splitlines()[0]


def test_equal_seeds_give_equal_runs(marl, tmp_path):
    for name, seed in (("one", 3), ("same", 3), ("other", 4)):
        marl("train", "ippo", SPREAD, "--steps", 32, *SHORT, *TINY, "--seed", seed, "--out", tmp_path / name)
    assert same_state(tmp_path / "one", tmp_path / "same")
    assert not same_state(tmp_path / "one", tmp_path / "other")


# It trains on what there is, without a change in code

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
    algorithm, env, *words = KINDS[kind]
    if "--steps" not in words:
        words += ["--steps", "32"]
    if kind in ("images", "agents that die", "pursuit"):
        words += ["--num-envs", "2", "--row-every", "1", "--evaluation-episodes", "1"]
    else:
        words += [*SHORT]
    done = marl("train", algorithm, env, *TINY, *words, "--out", tmp_path / "run")
    assert done.code == 0, done
    rows = rows_of(tmp_path / "run")
    assert len(rows) >= 2
    assert all(value is not None for row in rows for value in row.values())
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["evaluation/return_mean"] == pytest.approx(
        sum(value for key, value in summary.items() if key.startswith("evaluation/return/"))
    )


# Stopping, resuming


def test_a_resumed_run_is_the_undisturbed_one(marl, spread_run, tmp_path):
    words = ("train", "mappo", SPREAD, *SHORT, "--out", tmp_path / "run")
    assert marl(*words, "--steps", 100).code == 0
    assert marl(*words, "--steps", 300, "--resume").code == 0
    assert timeless(rows_of(tmp_path / "run")) == timeless(rows_of(spread_run))
    assert same_state(tmp_path / "run", spread_run)
    summaries = [json.loads((run / "summary.json").read_text()) for run in (tmp_path / "run", spread_run)]
    assert timeless(summaries[:1]) == timeless(summaries[1:])
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["steps"] == 300


def test_rows_after_the_checkpoint_are_written_once_more(marl, spread_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(spread_run, run)
    later = {**rows_of(run)[-1], "updates": 4, "env_steps": 400}
    with (run / "metrics.jsonl").open("a") as journal:
        journal.write(json.dumps(later) + "\n" + '{"updates": 5, "env_st')
    assert marl("train", "mappo", SPREAD, *SHORT, "--steps", 400, "--resume", "--out", run).code == 0
    assert [row["updates"] for row in rows_of(run)] == [1, 2, 3, 4]
    assert timeless(rows_of(run)[-1:]) != timeless([later])


def wait_for_rows(run: Path, count: int, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if (run / "metrics.jsonl").exists() and len(rows_of(run)) >= count:
            return
        time.sleep(0.02)
    raise TimeoutError(f"{run} did not come to {count} rows")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_leads_to_a_checkpoint_and_exit_code_75(marl, tmp_path, number):
    run = tmp_path / "run"
    words = ("train", "ippo", "toy_game:make", *SHORT, *TINY, "--compile", "no", "--out", run)
    before = signal.getsignal(number)

    def ask() -> None:
        wait_for_rows(run, 3)
        os.kill(os.getpid(), number)

    asking = threading.Thread(target=ask)
    asking.start()
    done = marl(*words, "--steps", 10**8)
    asking.join()
    assert done.code == 75, done
    assert signal.getsignal(number) == before
    assert f"go on with --resume --out {run}" in done.stdout
    assert not (run / "summary.json").exists()
    steps = newest(run).step
    assert rows_of(run)[-1]["env_steps"] == steps
    resumed = marl(*words, "--steps", steps + 32, "--resume")
    assert resumed.code == 0, resumed
    undisturbed = tmp_path / "undisturbed"
    marl(*words[:-1], undisturbed, "--steps", steps + 32)
    assert same_state(run, undisturbed)
    assert timeless(rows_of(run)) == timeless(rows_of(undisturbed))


def test_two_ranks_train_stop_on_request_and_go_on(start, marl, tmp_path):
    run = tmp_path / "run"
    words = ("train", "mappo", SPREAD, *SHORT, *TINY, "--compile", "no", "--out", run)
    process = start(*words, "--steps", 10**8, "--ranks", 2)
    wait_for_rows(run, 3, seconds=120)
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 75, (stdout, stderr)
    assert "2 ranks" in stdout.splitlines()[0]
    steps = newest(run).step
    assert rows_of(run)[-1]["env_steps"] == steps
    resumed = marl(*words, "--steps", steps + 32, "--resume", "--ranks", 2)
    assert resumed.code == 0, resumed
    assert resumed.stdout.count("over 2 greedy episodes") == 1
    assert json.loads((run / "summary.json").read_text())["ranks"] == 2
    assert [row["updates"] for row in rows_of(run)] == list(range(1, steps // 16 + 3))


# Tracking


def test_wandb_offline_and_tensorboard_are_written_beside_the_journal(marl, tmp_path):
    run = tmp_path / "run"
    words = ("train", "ippo", "toy_game:make", "--steps", 32, *SHORT, *TINY, "--out", run)
    done = marl(*words, "--wandb", "offline", "--tensorboard")
    assert (done.code, done.stderr) == (0, "")
    assert list((run / "wandb").glob("offline-run-*/*.wandb"))
    assert list((run / "tensorboard").glob("events.*"))
    assert len(rows_of(run)) == 2


def test_unreachable_wandb_costs_one_warning(marl, tmp_path, monkeypatch):
    class Impatient(WandbLogger):
        def __init__(self, *words, **settings):
            super().__init__(*words, **settings, init_timeout=1.0, finish_timeout=1.0)

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


SLOW_WANDB = """
import sys, time

if any(word.endswith("wandb_process.py") for word in sys.orig_argv):
    import wandb

    finish = wandb.Run.finish
    wandb.Run.finish = lambda *words, **options: (time.sleep(15), finish(*words, **options))
"""


@pytest.mark.slow
def test_a_slow_wandb_does_not_make_a_finished_job_look_stuck(start, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(SLOW_WANDB)
    run = tmp_path / "run"
    # The supervisor waits 1.2 times as long as the ranks, and 5 seconds.
    words = ("--ranks", 2, "--watchdog", 5, "--max-restarts", 1, "--wandb", "offline", "--compile", "no", "--out", run)
    process = start("train", "mappo", SPREAD, "--steps", 32, *SHORT, *TINY, *words, PYTHONPATH=str(tmp_path))
    stdout, stderr = process.communicate(timeout=120)
    assert (process.returncode, stderr) == (0, ""), stdout
    assert (run / "summary.json").exists()
    assert not (run / "failures").exists()


# Bad input: one line, exit code 2, nothing half-written


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("mapo", SPREAD), "there is no algorithm 'mapo'; did you mean 'mappo'?"),
        (("mappo", "mpe2.simple_spred_v3"), "did you mean mpe2.simple_spread_v3?"),
        (("mappo", "classic/connect_for-v3"), "did you mean classic/connect_four-v3?"),
        (("mappo", "toy_game:mke"), "toy_game has no callable 'mke'; did you mean make?"),
        (("mappo", "no_such_module:make"), "there is no environment 'no_such_module:make'"),
        (("mappo",), "which environment?"),
        (("--steps", "5"), "marl train ALGORITHM ENV comes first"),
        (("mappo", SPREAD, "--algorithm.learning-rat", "1"), "did you mean --algorithm.learning-rate?"),
        (("mappo", SPREAD, "--learning-rate", "1"), "did you mean --algorithm.learning-rate?"),
        (("mappo", SPREAD, "--algorithm.learning-rate", "fast"), "--algorithm.learning-rate"),
        (("mappo", SPREAD, "--algorithm.rollout-length", "0"), "rollout"),
        (("mappo", SPREAD, "--env-kwargs", "{N: 3}"), "--env-kwargs is not JSON"),
        (("mappo", SPREAD, "--env-kwargs", "[3]"), "--env-kwargs must be a JSON object"),
        (("mappo", SPREAD, "--env-kwargs", '{"colour": 3}'), "takes no argument colour"),
        (("mappo", SPREAD, "--steps", "0"), "--steps must be at least 1, got 0"),
        (("mappo", SPREAD, "--seed", "-1"), "--seed cannot be negative, got -1"),
        (("mappo", SPREAD, "--evaluation-max-steps", "0"), "--evaluation-max-steps must be at least 1, got 0"),
        (("mappo", SPREAD, "--checkpoint-every", "0"), "--checkpoint-every must be at least 1"),
        (("mappo", SPREAD, "--keep-checkpoints", "0"), "--keep-checkpoints must be at least 1"),
        (("mappo", SPREAD, "--ranks", "0"), "--ranks must be at least 1, got 0"),
        (("mappo", SPREAD, "--ranks", "two"), "--ranks"),
        (("mappo", SPREAD, "--recipe", RECIPE[:-1]), f"there is no recipe {RECIPE[:-1]!r}; did you mean {RECIPE!r}?"),
        (("mappo", SPREAD, "--backend", "fast"), "pettingzoo"),
        (("mappo", "classic/tictactoe-v3", "--backend", "batched"), "has no batched version"),
        (("mappo", "toy_game:make", "--preprocessing.grey"), "cannot be made grey"),
        (("ippo", SPREAD, "--algorithm.centralized-critic"), "is fixed by the algorithm's name"),
        (("mappo", "toy_game:make", "--env-kwargs", '{"fault": "text"}'), "observation space of left"),
        (("mappo", "toy_game:make", "--env-kwargs", '{"fault": "graph"}'), "action space of left is not supported"),
    ],
)
def test_wrong_words_write_nothing(refused, tmp_path, words, line):
    assert line in refused("train", *words, "--out", tmp_path / "deep" / "run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("fault", "rule"),
    [
        ("shape", "(the observation has the shape of its space) at agent right"),
        ("nan", "(observations are finite) at agent right"),
        ("missing", "(observations has an entry for every agent that is alive) at agent right"),
        ("reward", "(a reward is a number) at agent right"),
    ],
)
def test_an_environment_that_breaks_the_api_is_told_which_rule_and_which_agent(refused, tmp_path, fault, rule):
    words = ("--env-kwargs", json.dumps({"fault": fault}), "--out", tmp_path / "run")
    assert rule in refused("train", "ippo", "toy_game:make", *SHORT, *words)
    assert list(tmp_path.iterdir()) == []


def test_an_environment_that_raises_ends_the_run_with_its_traceback(marl, tmp_path):
    words = ("--env-kwargs", '{"fault": "raises"}', "--env-failures", 0, "--out", tmp_path / "run")
    done = marl("train", "ippo", "toy_game:make", *SHORT, *words)
    assert done.code == 1
    assert done.stderr.splitlines()[-1] == "RuntimeError: the game fell over"


def test_an_environment_that_raises_in_every_episode_is_told_in_one_line(marl, tmp_path):
    words = ("--env-kwargs", '{"fault": "raises"}', "--env-failures", 2, "--out", tmp_path / "run")
    done = marl("train", "ippo", "toy_game:make", *SHORT, *words)
    assert done.code == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("marl: copy 0 of the environment failed")]
    assert "3 episodes in a row, the last time with RuntimeError: the game fell over" in line
    assert list(tmp_path.iterdir()) == []


def test_resuming_a_finished_run_is_one_line(marl, spread_run):
    before = {path: path.read_bytes() for path in spread_run.rglob("*") if path.is_file()}
    words = ("train", "mappo", SPREAD, "--steps", 300, *SHORT, "--resume", "--out", spread_run)
    for ranks in ((), ("--ranks", 2)):
        done = marl(*words, *ranks)
        assert (done.code, done.stderr) == (0, "")
        assert done.stdout == f"{spread_run} is finished: 300 of 300 steps; --steps with more lengthens it\n"
    assert {path: path.read_bytes() for path in spread_run.rglob("*") if path.is_file()} == before


def test_what_ranks_of_a_finished_run_left_is_removed_unless_somebody_is_at_work_on_it(marl, spread_run, tmp_path):
    run, words = tmp_path / "run", ("train", "mappo", SPREAD, "--steps", 300, *SHORT, "--resume", "--out")
    shutil.copytree(spread_run, run)
    (run / "ranks").mkdir()
    (run / "ranks" / "0.beat").write_bytes(b"killed after the summary was written")
    with RunDirectory.open(run).locked():
        assert marl(*words, run).code == 0
        assert (run / "ranks").exists()
    assert marl(*words, run).code == 0
    assert not (run / "ranks").exists()


def test_a_run_without_a_checkpoint_is_resumed_from_its_beginning(marl, spread_run, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    for name in ("config.json", "metrics.jsonl"):
        shutil.copy(spread_run / name, run)
    done = marl("train", "mappo", SPREAD, "--steps", 300, *SHORT, "--resume", "--out", run)
    assert done.code == 0
    assert f"{run} has no checkpoint yet; it begins anew" in done.stdout
    assert same_state(run, spread_run)
    assert timeless(rows_of(run)) == timeless(rows_of(spread_run))


def test_two_processes_do_not_write_to_one_run(refused, spread_run, monkeypatch):
    monkeypatch.setattr(RunDirectory.locked, "__kwdefaults__", {"patience": 0.2}, raising=False)
    with RunDirectory.open(spread_run).locked():
        line = refused("train", "mappo", SPREAD, "--steps", 400, *SHORT, "--resume", "--out", spread_run)
    assert line == f"another process is at work on {spread_run}; stop it first"


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
    words = ("--checkpoint-every", 16, "--steps", 64, "--out", tmp_path / "run")
    done = marl("train", "ippo", "toy_game:make", *SHORT, *TINY, *words)
    assert done.code == 1
    lines = done.stderr.splitlines()
    assert "marl: the disk is full" in lines
    assert lines[-1] == "RuntimeError: the terminal is gone"


def test_a_disk_that_is_full_before_the_first_checkpoint_says_how_to_go_on(marl, refused, tmp_path, monkeypatch):
    run = tmp_path / "run"
    words = ("train", "ippo", "toy_game:make", *SHORT, *TINY, "--steps", 64, "--out", run)
    with monkeypatch.context() as patch:
        fill_disk(patch, run / "checkpoints")
        line = refused(*words)
    assert "cannot write the checkpoint of step 64" in line
    assert line.endswith("there is no checkpoint yet, so --resume begins the run anew")
    assert marl(*words, "--resume").code == 0
    assert [row["updates"] for row in rows_of(run)] == [1, 2, 3, 4]


@pytest.fixture
def as_one_of_two_ranks(monkeypatch):
    """This process as rank 0 of two that agree with it."""

    class Two(SerialCommunicator):
        size = 2

    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    monkeypatch.setattr(mpi, "communicator_from_environment", Two)


@pytest.mark.usefixtures("as_one_of_two_ranks")
def test_fewer_copies_than_ranks_are_refused(refused, tmp_path):
    line = refused("train", "ippo", "toy_game:make", "--num-envs", 1, "--out", tmp_path / "run")
    assert line == "2 ranks cannot share 1 environment copies; raise --num-envs or start fewer ranks"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("as_one_of_two_ranks")
def test_ranks_inside_mpirun_are_refused_unless_they_agree(refused, tmp_path):
    line = refused("train", "ippo", "toy_game:make", "--ranks", 3, "--out", tmp_path / "run")
    assert line == "--ranks 3 under an mpirun that started 2; leave it out"
    assert list(tmp_path.iterdir()) == []


def test_singletons_of_a_wrong_mpirun_are_refused(start, tmp_path):
    process = start("train", "ippo", "toy_game:make", "--out", tmp_path / "run", OMPI_COMM_WORLD_SIZE="2")
    _, stderr = process.communicate(timeout=60)
    assert (process.returncode, len(stderr.splitlines())) == (2, 1), stderr
    assert "the launcher started 2 ranks, but MPI sees 1" in stderr
    assert list(tmp_path.iterdir()) == []


def test_an_existing_run_directory_is_left_alone(refused, spread_run):
    before = {path: path.read_bytes() for path in spread_run.rglob("*") if path.is_file()}
    for words in ((), ("--ranks", 2)):
        line = refused("train", "mappo", SPREAD, *SHORT, *words, "--out", spread_run)
        assert line == f"{spread_run} holds a run already; continue it with --resume or choose another --out"
    assert {path: path.read_bytes() for path in spread_run.rglob("*") if path.is_file()} == before


def test_a_folder_of_other_things_is_left_alone(refused, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    assert "is not empty" in refused("train", "ippo", "toy_game:make", *SHORT, "--out", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_resume_needs_a_run_of_the_same_configuration(refused, spread_run, tmp_path):
    words = ("--steps", 400, "--row-every", 1, "--evaluation-episodes", 2, "--resume")
    assert refused("train", "mappo", SPREAD, *words) == "--resume needs --out: which run?"
    assert "there is no such folder" in refused("train", "mappo", SPREAD, *words, "--out", tmp_path / "run")
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
        line = refused("train", *changed, *words, "--out", spread_run)
        assert line.startswith(f"cannot resume {spread_run} with another configuration: ")
        assert difference in line
    assert {path: path.read_bytes() for path in spread_run.rglob("*") if path.is_file()} == before


def test_a_damaged_newest_checkpoint_is_passed_over_with_a_warning(marl, spread_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(spread_run, run)
    words = ("train", "mappo", SPREAD, *SHORT, "--out", run, "--resume")
    assert marl(*words, "--steps", 400).code == 0
    tensors = list_checkpoints(run / "checkpoints")[-1] / "tensors.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:100])
    done = marl(*words, "--steps", 500)
    assert done.code == 0, done
    (warning,) = done.stderr.splitlines()
    assert "is truncated" in warning
    assert "going back to 000000000300" in warning
    assert [row["updates"] for row in rows_of(run)] == [1, 2, 3, 4, 5]


# A full disk


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
    words = ("train", "ippo", "toy_game:make", *SHORT, *TINY, "--out", run)
    assert marl(*words, "--steps", 32).code == 0
    state = newest(run).tensors
    with monkeypatch.context() as patch:
        fill_disk(patch, run / "checkpoints")
        line = refused(*words, "--steps", 64, "--resume")
    assert "cannot write the checkpoint of step 64" in line
    assert "No space left on device" in line
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["000000000032"]
    assert all(torch.equal(tensor, state[name]) for name, tensor in newest(run).tensors.items())
    # With space again, it goes on where the last whole checkpoint stands.
    assert main([str(word) for word in (*words, "--steps", 64, "--resume")]) == 0
    assert [row["updates"] for row in rows_of(run)] == [1, 2, 3, 4]


def test_a_disk_that_is_full_at_a_row_leaves_whole_rows(marl, refused, tmp_path, monkeypatch):
    run = tmp_path / "run"
    words = ("train", "ippo", "toy_game:make", *SHORT, *TINY, "--out", run)
    assert marl(*words, "--steps", 32).code == 0
    with monkeypatch.context() as patch:
        fill_disk(patch, run / "metrics.jsonl")
        line = refused(*words, "--steps", 64, "--resume")
    assert line.startswith(f"cannot write {run / 'metrics.jsonl'}: No space left on device")
    assert [row["updates"] for row in rows_of(run)] == [1, 2]


def test_a_resumed_run_goes_through_the_compiler_only_if_it_did_before(tmp_path, marl):
    words = ("train", "mappo", "mpe2.simple_spread_v3", "--num-envs", 2, "--evaluation-episodes", 0, "--out", tmp_path)
    assert marl(*words, "--steps", 50).code == 0
    assert json.loads((tmp_path / "config.json").read_text())["compile"] == "no"
    # Long enough for the compiler, but the run began without.
    done = marl(*words, "--steps", 600_000, "--resume", "--compile", "yes")
    assert done.code == 2
    assert "compile" in done.stderr


def test_what_is_not_written_for_the_compiler_is_refused(refused):
    words = ("train", "mappo", "mpe2.simple_spread_v3", "--compile", "yes", "--algorithm.recurrent")
    assert "is not written for torch's compiler with these settings" in refused(*words)
    league = ("league", "mappo", "classic/tictactoe-v3", "--compile", "yes")
    assert "does not go through torch's compiler" in refused(*league)
