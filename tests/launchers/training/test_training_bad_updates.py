"""A gradient that is not finite costs one step, on all ranks together, whatever the algorithm."""

from dataclasses import fields, replace

import pytest
import torch

from marl.distributed.flat_parameters import FlatParameters
from marl.experiments.config import ExperimentConfig
from marl.experiments.experiment import Experiment
from marl.launchers.run.catalog import ALGORITHMS
from marl.replay import ReplayConfig
from marl.testing.algorithm_checks import algorithm_specs, fake_factory
from marl.testing.threads import run_on_threads

SPECS = algorithm_specs()
QUICK = {
    "hidden_sizes": (8,),
    "rollout_length": 4,
    "epochs": 2,
    "replay": ReplayConfig(capacity=400, batch_size=16, samples_per_insert=4.0, min_size=32),
}


def experiment(name, communicator):
    variant = ALGORITHMS[name]
    config = variant.default_config()
    known = {field.name for field in fields(config)}
    config = replace(config, **{key: value for key, value in QUICK.items() if key in known})
    return Experiment(
        ExperimentConfig(
            builder=variant.build(config),
            environment=fake_factory(SPECS["discrete"]),
            num_envs=4,
            steps=160,
            evaluation_episodes=0,
        ),
        communicator,
    )


class Rows:
    def __init__(self):
        self.rows = []

    def write(self, row):
        self.rows.append(dict(row))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")], ids=["nan", "infinite"])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_bad_gradient_on_one_rank_is_skipped_on_all(name, bad, monkeypatch):
    honest = FlatParameters.all_reduce

    def spoilt(self, communicator):
        self.reductions = getattr(self, "reductions", 0) + 1
        if self.reductions == 3 and communicator.rank == 1:
            self.gradients[0] = bad
        honest(self, communicator)

    monkeypatch.setattr(FlatParameters, "all_reduce", spoilt)

    def work(communicator):
        rows = Rows()
        result = experiment(name, communicator).run(rows)
        return result.learner_state, rows.rows

    (first, rows), (second, _) = run_on_threads(2, work)
    assert rows[-1]["skipped_steps"] >= 1
    assert rows[-1]["skipped_steps"] == rows[len(rows) // 2 + 1]["skipped_steps"]
    assert first.keys() == second.keys()
    for key, tensor in first.items():
        assert torch.equal(tensor, second[key]), key
        if tensor.is_floating_point():
            assert tensor.isfinite().all(), key
