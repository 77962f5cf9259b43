"""Short forms of ``make chaos``: whatever is killed or damaged, nothing is lost."""

import os
import sys
from dataclasses import replace

import pytest
from chaos import VICTIMS, damage_checkpoints, kill_writers, lose_ranks, soak
from resumptions import cases, resume_alone
from stops import stop_runs

from marl.experiments.experiment import Experiment
from marl.testing.threads import run_on_threads

linux = pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """Whatever job the tests themselves may be part of, runs do not hear of it."""
    for name in (*os.environ,):
        if name.startswith(("OMPI_COMM", "PMI_", "MARL_")):
            monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Holds the undisturbed run, with which kills and stops are compared alike."""
    return tmp_path_factory.mktemp("chaos")


@linux
@pytest.mark.timeout(900)
def test_kills_of_every_kind_lose_nothing(folder):
    result = soak(folder, len(VICTIMS), seed=1, per_run=len(VICTIMS) // 2)
    assert result.problems == []
    assert sum(result.kills.values()) == len(VICTIMS)
    assert result.identical == result.runs


@linux
@pytest.mark.timeout(600)
def test_requests_to_stop_are_answered_in_time_and_lose_nothing(folder):
    result = stop_runs(folder, 5, seed=1)
    assert result.problems == []
    assert len(result.seconds) == 5
    assert result.identical == result.runs


QUICK = [case for case in cases() if case.backend == "batched"]


@pytest.mark.parametrize("case", QUICK, ids=str)
def test_a_run_that_was_built_anew_twice_is_the_one_that_was_not(tmp_path, case):
    result = resume_alone(tmp_path, 2, seed=1, of=[case])
    assert result.problems == []
    assert result.resumptions == {"1": 2}


@pytest.mark.parametrize("case", cases()[:8:3], ids=str)
def test_runs_of_several_ranks_are_resumed_exactly(tmp_path, case):
    def work(communicator):
        return resume_alone(tmp_path, 2, seed=1, communicator=communicator, of=[case])

    for result in run_on_threads(3, work):
        assert result.problems == []
        assert result.resumptions == {"3": 2}


def test_a_moment_that_is_not_resumed_exactly_is_found(tmp_path, monkeypatch):
    load = Experiment.load

    def forget(self, checkpoint):
        wrong = {name: tensor + 1e-6 for name, tensor in checkpoint.tensors.items() if name.endswith("exp_avg")}
        load(self, replace(checkpoint, tensors=checkpoint.tensors | wrong))

    monkeypatch.setattr(Experiment, "load", forget)
    problem, *_ = resume_alone(tmp_path, 1, seed=1, of=QUICK[:1]).problems
    assert "learner.agent.actor" in problem


def test_a_killed_writer_leaves_its_last_whole_checkpoint(tmp_path):
    result = kill_writers(tmp_path, 60, seed=1)
    assert result["problems"] == []
    assert result["within a checkpoint"] > 0


def test_every_damage_is_found_and_the_checkpoint_before_is_taken(tmp_path):
    result = damage_checkpoints(tmp_path, 150, seed=1)
    assert result["problems"] == []
    assert set(result["by kind"]) == {"bit", "cut", "swap", "exchange"}


@linux
@pytest.mark.timeout(600)
def test_ranks_that_die_leave_a_run_that_goes_on(tmp_path):
    result = lose_ranks(tmp_path, 2, seed=1, per_run=2, steps=1600)
    assert result.problems == []
    assert result.runs == 1
    assert result.went_on == 2
