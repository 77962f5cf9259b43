"""The conformance check of algorithms finds what is broken, and threads stand in for ranks."""

from dataclasses import replace

import pytest
import torch

from marl.algorithms.mappo import MAPPO, MAPPOConfig, MAPPOLearner
from marl.core import EnvironmentRequest
from marl.errors import InputError
from marl.testing.algorithm_checks import algorithm_specs, check_algorithm, fake_factory
from marl.testing.environment_checks import ConformanceError

SPECS = algorithm_specs()


ONE = {"discrete": SPECS["discrete"]}


CONFIG = MAPPOConfig(rollout_length=4, hidden_sizes=(8,), epochs=1, minibatches=1)


@pytest.mark.parametrize("sharing", ["spaces", "none", "all"])
def test_fake_environments_group_agents_as_they_are_asked_to(sharing):
    environment = fake_factory(SPECS["discrete"])(EnvironmentRequest(num_envs=1, sharing=sharing))
    assert len(environment.spec.groups) == (3 if sharing == "none" else 1)


@pytest.mark.parametrize("recurrent", [False, True])
def test_mappo_keeps_all_promises(recurrent):
    few = {name: SPECS[name] for name in ("groups", "mixed", "turns")}
    check_algorithm(MAPPO(config=replace(CONFIG, recurrent=recurrent)), few, updates=2, num_envs=3, ranks=(2,))


class Broken(MAPPO):
    """MAPPO with another learner."""

    kind: type[MAPPOLearner] = MAPPOLearner

    def make_learner(self, spec, networks, dataset, context):
        return self.kind(spec, networks, dataset, self.config, context)


def broken(learner: type[MAPPOLearner]) -> Broken:
    return type("Broken", (Broken,), {"kind": learner})(config=CONFIG)


class Lazy(MAPPOLearner):
    def step(self):
        self._dataset.sample()
        return {}


class Explodes(MAPPOLearner):
    def step(self):
        metrics = super().step()
        self._optimizer.parameters[0] = torch.nan
        return metrics


class Forgets(MAPPOLearner):
    def load_state_dict(self, state):
        super().load_state_dict(state)
        self._passes.load_state_dict({"passes": torch.tensor(0)})


class DependsOnRank(MAPPOLearner):
    def step(self):
        metrics = super().step()
        self._optimizer.parameters.mul_(1.0 + 1e-3 * self._context.communicator.rank)
        return metrics


class DependsOnSize(MAPPOLearner):
    def step(self):
        metrics = super().step()
        self._optimizer.parameters.mul_(1.0 + 0.1 * (self._context.communicator.size - 1))
        return metrics


class Random(MAPPOLearner):
    def step(self):
        metrics = super().step()
        self._optimizer.parameters.add_(1e-3 * torch.rand_like(self._optimizer.parameters))
        return metrics


class Raises(MAPPOLearner):
    def step(self):
        raise IndexError("index 3 is out of bounds")


@pytest.mark.parametrize(
    ("learner", "found"),
    [
        (Lazy, "updates change parameters"),
        (Explodes, "finite"),
        (Forgets, "a checkpoint holds everything"),
        (DependsOnRank, "replicas are equal"),
        (DependsOnSize, "the number of ranks changes the speed"),
        (Random, "a run depends on nothing but its settings and seed"),
        (Raises, "algorithms run on every spec.*IndexError: index 3"),
    ],
)
def test_a_broken_learner_is_found_out(learner, found):
    with pytest.raises(ConformanceError, match=found):
        check_algorithm(broken(learner), ONE, updates=2, num_envs=3, ranks=(2,))


def test_what_ought_to_be_refused_and_is_not_is_found_out():
    with pytest.raises(ConformanceError, match="continuous is not refused"):
        check_algorithm(MAPPO(config=CONFIG), {}, {"continuous": SPECS["continuous"]})


@pytest.mark.parametrize(
    ("error", "found"), [(ValueError("no"), "ValueError, not InputError"), (InputError("one\ntwo"), "not one line")]
)
def test_a_refusal_is_an_input_error_of_one_line(error, found):
    class Refuses(MAPPO):
        def check(self, spec, context):
            raise error

    with pytest.raises(ConformanceError, match=found):
        check_algorithm(Refuses(config=CONFIG), {}, ONE)
