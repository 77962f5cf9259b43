"""The loop on the first page is code that exists: executed as it stands there, it trains what an experiment trains."""

import inspect
import textwrap

import pytest
import torch
from probes import anything

import marl.core
from marl.algorithms.mappo import MAPPO, MAPPOConfig
from marl.algorithms.qmix import QMIX, QMIXConfig
from marl.builders import RunContext
from marl.core import EnvironmentRequest
from marl.counters import Counter
from marl.distributed.communicators import SerialCommunicator
from marl.experiments.config import ExperimentConfig
from marl.experiments.experiment import run_experiment
from marl.experiments.parts import make_policy_actor
from marl.random_streams import derive_int
from marl.replay import ReplayConfig
from marl.specs import AgentSpec, ArraySpec, DiscreteActions

ENVS, STEPS, SEED = 4, 4 * 24, 7
GAME = anything(
    AgentSpec(name="a", observation=ArraySpec(shape=(2,)), action=DiscreteActions(num_actions=3), masked=True),
    AgentSpec(name="b", observation=ArraySpec(shape=(3,)), action=DiscreteActions(num_actions=2)),
)
ON_POLICY = MAPPO(config=MAPPOConfig(hidden_sizes=(8,), rollout_length=6, epochs=2))
REPLAY = ReplayConfig(capacity=200, batch_size=8, samples_per_insert=2.0, min_size=16)
OFF_POLICY = QMIX(config=QMIXConfig(hidden_sizes=(8,), replay=REPLAY))


def loop_of_the_docstring():
    paragraphs = inspect.getdoc(marl.core).split("\n\n")
    (block,) = [paragraph for paragraph in paragraphs if paragraph.startswith("    ")]
    return textwrap.dedent(block)


@pytest.mark.parametrize("builder", [ON_POLICY, OFF_POLICY], ids=["on-policy", "off-policy"])
def test_the_loop_of_the_docstring_trains_as_an_experiment_does(builder):
    context = RunContext(
        communicator=SerialCommunicator(),
        seed=SEED,
        num_envs=ENVS,
        total_envs=ENVS,
        first_env=0,
        total_steps=STEPS,
        counter=Counter(),
        device=torch.device("cpu"),
    )
    names = {
        "builder": builder,
        "context": context,
        "make_environment": GAME,
        "make_policy_actor": make_policy_actor,
        "request": EnvironmentRequest(num_envs=ENVS, seed=SEED, sharing=builder.sharing, with_state=builder.with_state),
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_int(SEED, "networks"))
        exec(loop_of_the_docstring(), names)
    config = ExperimentConfig(
        builder=builder, environment=GAME, seed=SEED, num_envs=ENVS, steps=STEPS, evaluation_episodes=0
    )
    expected = run_experiment(config)
    assert context.counter.env_steps == expected.counter.env_steps == STEPS
    assert expected.counter.updates > 1
    assert names["metrics"]
    trained = names["learner"].state_dict()
    assert trained.keys() == expected.learner_state.keys()
    assert [name for name in trained if not torch.equal(trained[name], expected.learner_state[name])] == []
