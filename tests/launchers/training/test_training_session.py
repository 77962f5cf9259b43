"""Training runs on their ranks: stopping, resuming, and jobs that do not fit."""

import json
import os
import shutil
import signal
import threading

import pytest
from command_line import SHORT, SPREAD, rows_of
from saved_runs import TINY, newest, same_state, timeless, wait_for_rows

from marl.checkpoints.checkpoint import list_checkpoints
from marl.distributed.communicators import SerialCommunicator
from marl.launchers.mpi import ranks as mpi


def test_a_resumed_run_is_the_undisturbed_one(marl, spread_run, tmp_path):
    argv = ("train", "mappo", SPREAD, *SHORT, "--out", tmp_path / "run")
    assert marl(*argv, "--steps", 100).code == 0
    assert marl(*argv, "--steps", 300, "--resume").code == 0
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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_leads_to_a_checkpoint_and_exit_code_75(marl, tmp_path, number):
    run = tmp_path / "run"
    argv = ("train", "ippo", "toy_game:make", *SHORT, *TINY, "--compile", "no", "--out", run)
    before = signal.getsignal(number)

    def ask() -> None:
        wait_for_rows(run, 3)
        os.kill(os.getpid(), number)

    asking = threading.Thread(target=ask)
    asking.start()
    done = marl(*argv, "--steps", 10**8)
    asking.join()
    assert done.code == 75, done
    assert signal.getsignal(number) == before
    assert f"go on with --resume --out {run}" in done.stdout
    assert not (run / "summary.json").exists()
    steps = newest(run).step
    assert rows_of(run)[-1]["env_steps"] == steps
    resumed = marl(*argv, "--steps", steps + 32, "--resume")
    assert resumed.code == 0, resumed
    undisturbed = tmp_path / "undisturbed"
    marl(*argv[:-1], undisturbed, "--steps", steps + 32)
    assert same_state(run, undisturbed)
    assert timeless(rows_of(run)) == timeless(rows_of(undisturbed))


def test_two_ranks_train_stop_on_request_and_go_on(start, marl, tmp_path):
    run = tmp_path / "run"
    argv = ("train", "mappo", SPREAD, *SHORT, *TINY, "--compile", "no", "--out", run)
    process = start(*argv, "--steps", 10**8, "--ranks", 2)
    wait_for_rows(run, 3, seconds=120)
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 75, (stdout, stderr)
    assert "2 ranks" in stdout.splitlines()[0]
    steps = newest(run).step
    assert rows_of(run)[-1]["env_steps"] == steps
    resumed = marl(*argv, "--steps", steps + 32, "--resume", "--ranks", 2)
    assert resumed.code == 0, resumed
    assert resumed.stdout.count("over 2 greedy episodes") == 1
    assert json.loads((run / "summary.json").read_text())["ranks"] == 2
    assert [row["updates"] for row in rows_of(run)] == list(range(1, steps // 16 + 3))


SLOW_WANDB = """
import sys, time

if any(word.endswith("wandb_process.py") for word in sys.orig_argv):
    import wandb

    finish = wandb.Run.finish
    wandb.Run.finish = lambda *argv, **options: (time.sleep(15), finish(*argv, **options))
"""


@pytest.mark.slow
def test_a_slow_wandb_does_not_make_a_finished_job_look_stuck(start, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(SLOW_WANDB)
    run = tmp_path / "run"
    # The supervisor waits 1.2 times as long as the ranks, and 5 seconds.
    argv = ("--ranks", 2, "--watchdog", 5, "--max-restarts", 1, "--wandb", "offline", "--compile", "no", "--out", run)
    process = start("train", "mappo", SPREAD, "--steps", 32, *SHORT, *TINY, *argv, PYTHONPATH=str(tmp_path))
    stdout, stderr = process.communicate(timeout=120)
    assert (process.returncode, stderr) == (0, ""), stdout
    assert (run / "summary.json").exists()
    assert not (run / "failures").exists()


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


def test_a_damaged_newest_checkpoint_is_passed_over_with_a_warning(marl, spread_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(spread_run, run)
    argv = ("train", "mappo", SPREAD, *SHORT, "--out", run, "--resume")
    assert marl(*argv, "--steps", 400).code == 0
    tensors = list_checkpoints(run / "checkpoints")[-1] / "tensors.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:100])
    done = marl(*argv, "--steps", 500)
    assert done.code == 0, done
    (warning,) = done.stderr.splitlines()
    assert "is truncated" in warning
    assert "going back to 000000000300" in warning
    assert [row["updates"] for row in rows_of(run)] == [1, 2, 3, 4, 5]
