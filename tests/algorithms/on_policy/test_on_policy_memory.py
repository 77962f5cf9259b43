"""Rollouts and updates that would not fit into memory are refused before they begin."""

from dataclasses import replace

import pytest
import torch

from marl.algorithms.maddpg import MADDPG
from marl.algorithms.mappo import MAPPO, MAPPOConfig
from marl.algorithms.masac import MASAC
from marl.algorithms.on_policy.memory import update_bytes
from marl.algorithms.qmix import QMIX
from marl.core import EnvironmentRequest
from marl.errors import InputError
from marl.experiments.config import ExperimentConfig
from marl.experiments.experiment import Experiment
from marl.networks.torso import kept_bytes
from marl.replay import ReplayConfig
from marl.resources import memory
from marl.specs import AgentSpec, ArraySpec, DiscreteActions, EnvironmentSpec, group_agents
from marl.testing.fake_environment import FakeVectorEnvironment

PIXELS = ArraySpec(shape=(84, 84, 3), dtype=torch.uint8)
BYTES = 84 * 84 * 3
AGENTS = tuple(
    AgentSpec(name=name, observation=PIXELS, action=DiscreteActions(num_actions=3)) for name in ("a_0", "a_1")
)
SPEC = EnvironmentSpec(groups=group_agents(AGENTS))


def test_a_rollout_of_images_is_its_pixels_and_what_convolutions_keep_of_a_minibatch():
    config = MAPPOConfig(centralized_critic=False, rollout_length=4)
    stored, kept = 5 * 8 * 2 * BYTES, 4 * 8 * 2 * 2 * kept_bytes(PIXELS, "yes")
    assert update_bytes(SPEC, config, num_envs=8, minibatches=1) == stored + kept
    assert update_bytes(SPEC, config, num_envs=8, minibatches=4) == stored + kept // 4
    plain = replace(config, convolutions="no")
    assert update_bytes(SPEC, plain, num_envs=8, minibatches=1) == stored + 4 * stored


def experiment(builder, num_envs=8):
    def factory(request: EnvironmentRequest):
        spec = replace(SPEC, state=PIXELS if request.with_state else None)
        return FakeVectorEnvironment(spec, num_envs=request.num_envs, first_env=request.first_env)

    return ExperimentConfig(builder=builder, environment=factory, steps=4000, num_envs=num_envs)


REPLAY = ReplayConfig(capacity=100, batch_size=64, min_size=64, samples_per_insert=1.0)


@pytest.mark.parametrize(
    ("builder", "remedies"),
    [
        (MAPPO(), ["--num-envs below", "--algorithm.rollout-length"]),
        (MAPPO(config=MAPPOConfig(centralized_critic=False)), ["--num-envs below", "--algorithm.rollout-length"]),
        (QMIX(config=replace(QMIX().config, replay=REPLAY)), ["--algorithm.replay.batch-size"]),
        (MADDPG(config=replace(MADDPG().config, replay=REPLAY)), ["--algorithm.replay.batch-size"]),
        (MASAC(config=replace(MASAC().config, replay=REPLAY)), ["--algorithm.replay.batch-size"]),
    ],
    ids=["mappo", "ippo", "qmix", "maddpg", "masac"],
)
def test_every_family_refuses_images_beyond_memory_and_says_how_to_shrink_them(monkeypatch, builder, remedies):
    monkeypatch.setattr(memory, "available_memory", lambda: 16 * 2**20)
    with pytest.raises(InputError, match=r"needs 0\.\d GiB on one machine, but 0\.0 GiB are free") as caught:
        Experiment(experiment(builder))
    for remedy in (*remedies, "--preprocessing.resize", "--preprocessing.grey"):
        assert remedy in str(caught.value)


def test_the_number_of_environments_that_is_named_fits(monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 100 * 2**20)
    builder = MAPPO(config=MAPPOConfig(centralized_critic=False, rollout_length=4))
    with pytest.raises(InputError) as caught:
        Experiment(experiment(builder, num_envs=1000))
    below = int(str(caught.value).partition("--num-envs below ")[2].split()[0])
    Experiment(experiment(builder, num_envs=below - 1)).close()
    with pytest.raises(InputError):
        Experiment(experiment(builder, num_envs=below + 1))
