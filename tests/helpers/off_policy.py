"""What the tests of off-policy actor-critic algorithms share."""

from collections.abc import Callable
from typing import Any

import torch
from probes import anything
from torch import Tensor

from marl.acting.evaluation import evaluate
from marl.algorithms.actor_critic.batches import JointActions
from marl.algorithms.actor_critic.builder import ActorCriticBuilder
from marl.core import EnvironmentFactory, EnvironmentRequest
from marl.distributed.communicators import SerialCommunicator
from marl.experiments.config import ExperimentConfig
from marl.experiments.experiment import Experiment
from marl.networks.action_encodings import encode_actions
from marl.replay import ReplayConfig
from marl.specs import AgentSpec, ArraySpec, ContinuousActions, DiscreteActions, MultiDiscreteActions

GAMMA = 0.8


def make(
    builder: Callable[[dict[str, Any]], ActorCriticBuilder],
    environment: EnvironmentFactory,
    *,
    updates: int = 0,
    num_envs: int = 8,
    seed: int = 0,
    replay: ReplayConfig | None = None,
    **settings: Any,
) -> Experiment:
    """An experiment with small and quick settings, after about so many updates (one a step of all environments)."""
    replay = replay or ReplayConfig(
        capacity=2000, batch_size=8 * num_envs, samples_per_insert=8.0, min_size=8 * num_envs
    )
    quick = {
        "hidden_sizes": (32,),
        "discount": GAMMA,
        "actor_learning_rate": 5e-3,
        "critic_learning_rate": 1e-2,
        "max_gradient_norm": 10.0,
        "tau": 0.05,
        "replay": replay,
    }
    built = Experiment(
        ExperimentConfig(
            builder=builder({**quick, **settings}),
            environment=environment,
            seed=seed,
            steps=(updates or 10) * num_envs + replay.min_size,
            num_envs=num_envs,
            evaluation_episodes=0,
        )
    )
    if updates:
        built.run()
    return built


def greedy_return(of: Experiment, episodes: int = 64) -> Tensor:
    """(agents,) mean undiscounted returns of greedy play."""
    result = evaluate(
        of.greedy,
        of.spec,
        of.config.environment,
        episodes=episodes,
        num_envs=16,
        seed=of.config.seed,
        communicator=SerialCommunicator(),
        sharing=of.config.builder.sharing,
    )
    return result.returns.mean(0)


def one_more_update(of: Experiment) -> dict[str, float]:
    """The metrics of one more update."""
    if not of.counter.env_steps:
        of.loop.begin()
    while not of.dataset.ready():
        of.loop.step()
        of.counter.env_steps += of.config.num_envs
    return dict(of.learner.step())


@torch.no_grad()
def values(of: Experiment, actions: dict[str, Tensor], group: str = "agent", num_envs: int = 4) -> Tensor:
    """(E, A) the first critic's values at the first step of new episodes, for actions (A, *action shape) by group."""
    config = of.config.builder.config
    start = of.config.environment(
        EnvironmentRequest(
            num_envs=num_envs, sharing=of.config.builder.sharing, with_state=of.config.builder.with_state
        )
    ).reset()
    encoded = {
        each.name: encode_actions(each.action, actions[each.name]).expand(num_envs, each.size, -1)
        for each in of.spec.groups
    }
    joint = JointActions(of.spec)
    state = start.state
    if state is not None:
        state = config.prepare(of.spec.state, state).unsqueeze(1)
    raw = start.groups[group].observations
    observations = config.prepare(of.spec.group(group).observation, raw)
    critics = of.networks[group].critics
    others = joint.others(group, joint.join(encoded))
    return critics.taken_values(observations, encoded[group], state, others)[0]


def agent(name: str, observation: ArraySpec, action: Any, masked: bool = False) -> AgentSpec:
    return AgentSpec(name=name, observation=observation, action=action, masked=masked)


VECTOR, SMALL = ArraySpec(shape=(6,)), ArraySpec(shape=(1,))
BOARD, IMAGE = ArraySpec(shape=(5, 6, 2)), ArraySpec(shape=(36, 40, 3), dtype=torch.uint8)
TINY = ArraySpec(shape=(3, 3, 2), dtype=torch.uint8)
FIVE, PAIR = DiscreteActions(num_actions=5), MultiDiscreteActions(nvec=(3, 2))
PUSH, TURN = ContinuousActions(low=(-1.0, 0.0), high=(1.0, 3.0)), ContinuousActions(low=(-2.0,), high=(2.0,))
UNBOUNDED = ContinuousActions(low=(-1.0, 0.0), high=(1.0, float("inf")))

SPECS = {
    "equal agents": anything(agent("a_0", VECTOR, FIVE), agent("a_1", VECTOR, FIVE), agent("a_2", VECTOR, FIVE)),
    "alone": anything(agent("solo", SMALL, FIVE)),
    "masked": anything(agent("a_0", VECTOR, FIVE, masked=True), agent("a_1", VECTOR, FIVE, masked=True)),
    "continuous": anything(agent("a_0", VECTOR, PUSH), agent("a_1", VECTOR, PUSH), agent("b_0", TINY, TURN)),
    "choices and forces": anything(agent("a_0", VECTOR, PUSH), agent("b_0", TINY, FIVE, masked=True)),
    "images": anything(agent("a_0", IMAGE, FIVE), agent("a_1", IMAGE, FIVE), state=TINY),
}
"""Environments that every algorithm must build for."""
SEVERAL_CHOICES = {
    "different spaces": anything(agent("listener", VECTOR, FIVE, masked=True), agent("speaker", SMALL, PAIR)),
    "masked parts": anything(agent("a_0", BOARD, PAIR, masked=True), agent("a_1", BOARD, PAIR, masked=True)),
}
"""Environments with several choices at once."""
LAYERS = {"input_normalization": "layer", "hidden_layer_norm": True}
SETTINGS = {
    "defaults": {},
    "decentralized": {"centralized_critic": False},
    "team, separate policies": {"team_reward": True, "sharing": "none", "n_step": 3},
    "tanh, normalised, deep": {"activation": "tanh", "hidden_sizes": (8, 8, 8), "num_critics": 3, **LAYERS},
    "current others": {"resample_other_actions": True, "num_critics": 2, "random_warmup": False},
}
