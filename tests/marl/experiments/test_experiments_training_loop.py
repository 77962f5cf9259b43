"""Times of rows, evaluations and checkpoints, and the schedule that they follow."""

import dataclasses

import pytest
from probes import Terminates

from marl.algorithms.mappo import MAPPO, MAPPOConfig
from marl.distributed.replica_checks import ReplicaError
from marl.errors import InputError
from marl.experiments import training_loop
from marl.experiments.config import ExperimentConfig, Schedule
from marl.experiments.experiment import Experiment
from marl.experiments.training_loop import Period
from marl.testing.threads import run_on_threads


def test_a_period_ends_once_at_the_first_step_behind_each_multiple():
    period = Period(100, 0)
    assert [steps for steps in range(30, 400, 30) if period.ended(steps)] == [120, 210, 300]


@pytest.mark.parametrize("resumed_at", [0, 30, 90, 120, 390, 600])
def test_a_period_that_is_resumed_ends_where_one_that_was_never_interrupted_does(resumed_at):
    whole = Period(100, 0)
    ends = [steps for steps in range(30, 1000, 30) if whole.ended(steps)]
    resumed = Period(100, resumed_at)
    after = [steps for steps in range(30, 1000, 30) if steps > resumed_at and resumed.ended(steps)]
    assert after == [steps for steps in ends if steps > resumed_at]


def test_a_period_without_length_never_ends():
    period = Period(None, 0)
    assert not any(period.ended(steps) for steps in range(1000))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"steps": 0}, "--steps must be at least 1, got 0"),
        ({"evaluation_max_steps": 0}, "--evaluation-max-steps must be at least 1, got 0"),
        ({"evaluate_every": 0}, "--evaluate-every must be at least 1, got 0"),
        ({"checkpoint_every": -5}, "--checkpoint-every must be at least 1, got -5"),
        ({"checkpoint_minutes": 0.0}, "--checkpoint-minutes must be positive, got 0"),
        ({"checkpoint_minutes": float("nan")}, "--checkpoint-minutes must be positive, got nan"),
        ({"evaluation_episodes": -1}, "--evaluation-episodes cannot be negative, got -1"),
        ({"row_every": -1}, "--row-every cannot be negative, got -1"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_schedule_that_makes_no_sense_is_refused(settings, says):
    with pytest.raises(InputError, match=says):
        Schedule(**settings).check_schedule()
    with pytest.raises(InputError, match=says):
        ExperimentConfig(builder=MAPPO(), environment=Terminates, **settings)


def test_an_experiment_config_is_a_schedule_and_more():
    config = ExperimentConfig(builder=MAPPO(), environment=Terminates)
    assert {entry.name: getattr(config, entry.name) for entry in dataclasses.fields(Schedule)} == dataclasses.asdict(
        Schedule()
    )


@pytest.mark.parametrize("what", ["weight", "counter"])
def test_ranks_that_come_apart_end_the_run_at_the_next_check_and_are_named(monkeypatch, what):
    monkeypatch.setattr(training_loop, "CHECK_UPDATES", 5)
    config = ExperimentConfig(
        builder=MAPPO(config=MAPPOConfig(rollout_length=4, epochs=1, minibatches=1, hidden_sizes=(8,))),
        environment=Terminates,
        num_envs=3,
        steps=4 * 3 * 20,
        evaluation_episodes=0,
    )
    updates = []

    def train(communicator):
        experiment = Experiment(config, communicator)

        def plant() -> None:
            updates.append(experiment.counter.updates)
            if communicator.rank == 1 and experiment.counter.updates == 7:
                if what == "weight":
                    next(iter(experiment.learner.get_variables().values())).view(-1)[:1].add_(1e-6)
                else:
                    experiment.counter.env_steps += 1

        experiment.run(at_boundary=plant)

    with pytest.raises(ReplicaError, match=r"parameters or counters after update 10 .*rank 1 disagrees") as caught:
        run_on_threads(3, train)
    assert caught.value.ranks == [1]
    assert max(updates) == 9
