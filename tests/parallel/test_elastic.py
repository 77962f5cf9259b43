"""Ranks die, the others go on, and learn what one rank alone learns."""

import sys
from io import BytesIO
from pathlib import Path

import pytest
import torch
from elastic_ranks import CONFIG
from jobs import Finished, clean_environment, run_limited

from marl.experiments.experiment import run_experiment
from marl.launchers.jobs.job import run_job
from marl.launchers.jobs.mpirun import find_mpirun, mpirun_command
from marl.launchers.jobs.processes import Job
from marl.launchers.jobs.signals import ForwardedStop

JOB = Path(__file__).with_name("elastic_ranks.py")

pytestmark = pytest.mark.skipif(not (find_mpirun().parent / "prterun").exists(), reason="needs Open MPI 5 with ULFM")


@pytest.fixture(scope="module")
def alone():
    """What one rank learns where none dies."""
    return run_experiment(CONFIG).learner_state


def train(ranks: int, out: Path, *deaths: str) -> Finished:
    command = mpirun_command([sys.executable, str(JOB), str(out), *deaths], ranks, elastic=True)
    return run_limited(command, clean_environment(ranks), 120)


@pytest.mark.parametrize(
    ("ranks", "deaths", "left"),
    [(4, ["0@4", "1@4"], 2), (4, ["1@1", "0@6", "3@12"], 1), (3, ["2@5+"], 2)],
    ids=["two-at-once", "one-after-another", "within-a-snapshot"],
)
def test_survivors_learn_what_one_rank_learns(tmp_path, alone, ranks, deaths, left):
    done = train(ranks, tmp_path / "state", *deaths)
    assert done.code == 0, done
    assert_learned(tmp_path / "state", alone, left)
    assert "on from update" in done.stdout


def assert_learned(path, alone, ranks):
    state = torch.load(path)
    assert int(state.pop("ranks")) == ranks
    assert state.keys() == alone.keys()
    for name, tensor in alone.items():
        torch.testing.assert_close(state[name], tensor, rtol=1e-4, atol=1e-5, msg=name)


def test_a_job_all_of_whose_ranks_died_has_failed(tmp_path):
    program = [sys.executable, str(JOB), str(tmp_path / "state"), "0@1", "1@1"]
    result = run_job(program, 2, Job.of_this_process("all-died"), ForwardedStop(), stderr=BytesIO(), elastic=True)
    assert result.vanished or result.code != 0


def test_a_job_that_went_on_with_fewer_ranks_has_succeeded_however_mpi_reports_the_loss(tmp_path, alone):
    program = [sys.executable, str(JOB), str(tmp_path / "state"), "0@1", "unclassified"]
    result = run_job(program, 2, Job.of_this_process("fewer"), ForwardedStop(), stderr=BytesIO(), elastic=True)
    assert (result.code, result.completed) == (0, True)
    assert_learned(tmp_path / "state", alone, 1)


def test_a_death_before_the_first_snapshot_ends_the_job_for_its_supervisor(tmp_path):
    done = train(2, tmp_path / "state", "1@-1")
    assert done.code == 1
    assert "a rank died, and no rank had a snapshot yet: the job ends" in done.stdout
    assert not (tmp_path / "state").exists()
