"""What every algorithm's critics make of deaths, of agents that are cut off alone, and of masks at the end."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from endings import AGENTS, ParallelEndings, TurnEndings, exact_values, games
from torch import Tensor

from marl.algorithms.actor_critic.batches import JointActions
from marl.algorithms.maddpg import MADDPG, MADDPGConfig
from marl.algorithms.mappo import MAPPO, MAPPOConfig
from marl.algorithms.masac import MASAC, MASACConfig
from marl.algorithms.nfsp import NFSP
from marl.algorithms.q_learning.networks import ActionValues, QNetworks, unroll
from marl.algorithms.qmix import QMIX, QMIXConfig
from marl.builders import Builder
from marl.envs.factory import vectorize
from marl.experiments.config import ExperimentConfig
from marl.experiments.experiment import Experiment
from marl.learning.absent_agents import without_absent
from marl.networks.action_encodings import encode_actions
from marl.replay import ReplayConfig

GAMMA = 0.5
TOLERANCE = 0.2
NUM_ENVS = 8
REPLAY = ReplayConfig(capacity=4000, batch_size=64, samples_per_insert=16.0, min_size=400)
Settings = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Steps:
    """T steps of G games, as a critic is asked about them."""

    observations: Tensor
    """(T, G, 2, *)."""
    state: Tensor
    """(T, G, *)."""
    active: Tensor
    """(T, G, 2) bool."""
    actions: Tensor
    """(T, G, 2[, 1]), legal."""
    masks: Tensor
    """(T, G, 2, K) bool."""
    codes: Tensor
    """(T, G, 2) int64: what is seen, by its number."""
    asked: Tensor
    """(T, G, 2) bool: whose value must be exact."""


# --- what an algorithm has learned: (T, G, 2) values of agents, or (T, G) of a team ------------------------------


def state_values(of: Experiment, steps: Steps) -> Tensor:
    networks = of.networks["agent"]
    state = None if networks.state is None else networks.state.read(steps.state).unsqueeze(2)
    critic = networks.critic
    features = critic.features(networks.observations.read(steps.observations), state)
    if critic.torso.gru is not None:
        first = torch.zeros(features.shape[:-1], dtype=torch.bool)
        features = critic.torso.unroll(features, critic.torso.initial_state(*features.shape[1:-1]), first)
    return networks.value_normalizer.denormalize(critic.values(features))


def q_values(of: Experiment, steps: Steps) -> Tensor:
    return _q_values(of, of.networks, steps)


def best_response_values(of: Experiment, steps: Steps) -> Tensor:
    return _q_values(of, of.networks.best_response, steps)


def _q_values(of: Experiment, networks: QNetworks, steps: Steps) -> Tensor:
    network = networks.of(of.spec.groups[0])
    values = network(steps.observations) if network.torso.gru is None else unroll(network, steps.observations)
    taken = ActionValues(values, steps.masks, steps.actions, steps.active)
    return taken.of_places() if networks.mixer is None else networks.mix([taken], steps.state)


def critic_values(of: Experiment, steps: Steps) -> Tensor:
    group, critics = of.spec.groups[0], of.networks["agent"].critics
    own = without_absent(encode_actions(group.action, steps.actions), steps.active).flatten(0, 1)
    joint = JointActions(of.spec)
    others = joint.others("agent", joint.join({"agent": own}))
    state = steps.state.flatten(0, 1).unsqueeze(1)
    values = critics.taken_values(steps.observations.flatten(0, 1), own, state, others)
    return values[0].view(steps.active.shape)


# --- the table ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Algorithm:
    """A row of the table."""

    make: Callable[[Settings], Builder[Any]]
    read: Callable[[Experiment, Steps], Tensor]
    settings: Settings = field(default_factory=dict)
    steps: int = 1_600
    """Of all environments."""
    forms: tuple[str, ...] = ("at once",)
    """Of the games: agents act at once, or in turns; or they act at once, and continuously."""
    rewards: tuple[str, ...] = ("own", "team")
    entropy: float = 0.0
    """Weight of the entropy that is part of values."""
    quick: bool = True
    slow_forms: tuple[str, ...] = ()
    """Those of a quick row that are left to the slow tests, since another row is as it in them."""


def ppo(settings: Settings) -> MAPPO:
    quick = {"discount": GAMMA, "gae_lambda": 0.5, "hidden_sizes": (32,), "learning_rate": 1e-2}
    return MAPPO(config=MAPPOConfig(**{**quick, "anneal_learning_rate": True, **settings}))


def q_learner(settings: Settings) -> QMIX:
    quick = {"discount": GAMMA, "hidden_sizes": (32,), "learning_rate": 1e-2, "tau": 0.2, "replay": REPLAY}
    return QMIX(config=QMIXConfig(**{**quick, "epsilon_end": 1.0, "epsilon_decay_steps": 0, **settings}))


def nfsp(settings: Settings) -> NFSP:
    return NFSP(best_response=q_learner(settings))


ACTOR_CRITIC = {
    "discount": GAMMA,
    "hidden_sizes": (32,),
    "actor_learning_rate": 1e-3,
    "critic_learning_rate": 1e-2,
    "max_gradient_norm": 10.0,
    "tau": 0.2,
    "replay": REPLAY,
}


def deterministic(settings: Settings) -> MADDPG:
    return MADDPG(config=MADDPGConfig(**{**ACTOR_CRITIC, **settings}))


def soft(settings: Settings) -> MASAC:
    return MASAC(config=MASACConfig(**{**ACTOR_CRITIC, "adapt_temperature": False, **settings}))


EVERY_FORM = ("at once", "in turns")
DISCRETE_AND_CONTINUOUS = ("at once", "continuous")
DECENTRALIZED = {"centralized_critic": False}
RECURRENT = {"recurrent": True, "sequence_length": 8, "n_step": 3}
MATD3 = {"num_critics": 2, "policy_delay": 2, "target_noise": 0.2}
SOFT = {"initial_temperature": 0.5}
COLD = {"initial_temperature": 1e-3}

ALGORITHMS = {
    "mappo": Algorithm(
        make=ppo, read=state_values, forms=(*EVERY_FORM, "continuous"), slow_forms=("in turns", "continuous")
    ),
    "ippo": Algorithm(make=ppo, read=state_values, settings=DECENTRALIZED, forms=EVERY_FORM, slow_forms=("at once",)),
    "mappo, recurrent": Algorithm(
        make=ppo, read=state_values, settings={"recurrent": True}, forms=EVERY_FORM, quick=False
    ),
    "ippo, recurrent": Algorithm(
        make=ppo, read=state_values, settings={"recurrent": True, **DECENTRALIZED}, forms=EVERY_FORM, quick=False
    ),
    "iql": Algorithm(make=q_learner, read=q_values, settings={"mixer": "none"}, forms=EVERY_FORM),
    "iql, 3 steps": Algorithm(make=q_learner, read=q_values, settings={"mixer": "none", "n_step": 3}),
    "iql, recurrent, 3 steps": Algorithm(
        make=q_learner, read=q_values, settings={"mixer": "none", **RECURRENT}, steps=6_400, quick=False
    ),
    "iql, recurrent, TD(λ)": Algorithm(
        make=q_learner,
        read=q_values,
        settings={"mixer": "none", **RECURRENT, "n_step": 1, "td_lambda": 0.6},
        steps=6_400,
        quick=False,
    ),
    "vdn": Algorithm(make=q_learner, read=q_values, settings={"mixer": "vdn"}, rewards=("team",)),
    "qmix": Algorithm(make=q_learner, read=q_values, settings={"mixer": "qmix"}, rewards=("team",)),
    "qmix, 3 steps": Algorithm(
        make=q_learner, read=q_values, settings={"mixer": "qmix", "n_step": 3}, rewards=("team",), quick=False
    ),
    "qmix, recurrent, 3 steps": Algorithm(
        make=q_learner,
        read=q_values,
        settings={"mixer": "qmix", **RECURRENT},
        steps=6_400,
        rewards=("team",),
        quick=False,
    ),
    "qplex": Algorithm(make=q_learner, read=q_values, settings={"mixer": "qplex"}, rewards=("team",)),
    "nfsp's best response": Algorithm(
        make=nfsp, read=best_response_values, settings={"mixer": "none"}, forms=EVERY_FORM, rewards=("own",)
    ),
    "maddpg": Algorithm(make=deterministic, read=critic_values, forms=DISCRETE_AND_CONTINUOUS),
    "maddpg, 3 steps": Algorithm(make=deterministic, read=critic_values, settings={"n_step": 3}, quick=False),
    "iddpg": Algorithm(
        make=deterministic, read=critic_values, settings=DECENTRALIZED, forms=DISCRETE_AND_CONTINUOUS, quick=False
    ),
    "matd3": Algorithm(
        make=deterministic, read=critic_values, settings=MATD3, forms=DISCRETE_AND_CONTINUOUS, quick=False
    ),
    "masac": Algorithm(make=soft, read=critic_values, settings=SOFT, entropy=0.5),
    "masac, cold": Algorithm(make=soft, read=critic_values, settings=COLD, forms=DISCRETE_AND_CONTINUOUS, quick=False),
    "isac": Algorithm(make=soft, read=critic_values, settings={**SOFT, **DECENTRALIZED}, entropy=0.5),
    "isac, cold": Algorithm(
        make=soft, read=critic_values, settings={**COLD, **DECENTRALIZED}, forms=DISCRETE_AND_CONTINUOUS, quick=False
    ),
}


def marks(row: Algorithm, form: str) -> list[Any]:
    return [] if row.quick and form not in row.slow_forms else [pytest.mark.slow]


def table() -> list[Any]:
    return [
        pytest.param(name, form, rewards, marks=marks(row, form), id=f"{name} {form} {rewards}")
        for name, row in ALGORITHMS.items()
        for form in row.forms
        for rewards in row.rewards
        if not (form == "in turns" and rewards == "team")
    ]


def environment(form: str, *, team: bool) -> Callable[[], Any]:
    if form == "in turns":
        return lambda: TurnEndings(team=team)
    return lambda: ParallelEndings(team=team, continuous=form == "continuous")


def all_steps(form: str, *, team: bool) -> Steps:
    """Every step of every game, as agents see it; after its end its last one again, which nobody asks about."""
    shown = environment(form, team=team)()
    number = len(shown.family)
    steps: list[list[tuple[Any, Any, list[bool], list[int], bool]]] = []
    for game in range(number):
        shown.reset(seed=game)
        rows: list[Any] = [np.zeros(shown.width, np.float32)] * 2
        steps.append([])
        while shown.agents:
            movers = [shown.agent_selection] if form == "in turns" else shown.agents
            active = [agent in movers for agent in AGENTS]
            rows = [
                shown.look(agent) if form != "in turns" or acts else row
                for agent, acts, row in zip(AGENTS, active, rows, strict=True)
            ]
            steps[-1].append((np.stack(rows), shown.state(), active, [shown.code(index) for index in range(2)], True))
            shown.step(0 if form == "in turns" else dict.fromkeys(movers, 0))
            while form == "in turns" and shown.agents and shown.is_over(shown.agent_selection):
                shown.step(None)
    length = max(map(len, steps))
    steps = [game + [(*game[-1][:4], False)] * (length - len(game)) for game in steps]
    observations, state, active, codes, known = (
        torch.from_numpy(np.array([[step[part] for step in game] for game in steps])).transpose(0, 1)
        for part in range(5)
    )
    actions = torch.zeros_like(codes)
    return Steps(
        observations=observations,
        state=state,
        active=active,
        actions=actions.float().unsqueeze(-1) if form == "continuous" else actions,
        masks=torch.tensor([game.legal for game in shown.family]).unsqueeze(1).expand(*actions.shape, -1),
        codes=codes,
        asked=known.unsqueeze(-1) & (active | team),
    )


@pytest.mark.parametrize(("name", "form", "rewards"), table())
def test_values_are_exact_whoever_dies_is_cut_off_or_may_not_do_everything(name, form, rewards):
    row, team = ALGORITHMS[name], rewards == "team"
    trained = Experiment(
        ExperimentConfig(
            builder=row.make({"team_reward": team, **row.settings}),
            environment=vectorize(environment(form, team=team)),
            seed=0,
            steps=row.steps * (2 if form == "in turns" else 1) * (5 if row.make is ppo else 1),
            num_envs=NUM_ENVS,
            evaluation_episodes=0,
        )
    )
    trained.run()
    steps = all_steps(form, team=team)
    with torch.no_grad():
        learned = row.read(trained, steps)
    learned = learned.unsqueeze(-1).expand(steps.active.shape) if learned.dim() == 2 else learned
    if row.settings.get("recurrent"):
        steps.asked[4 if form == "in turns" else 2 :] = False  # later ones lie too near to what a memory has never seen
    found: dict[tuple[str, str, int], float] = {}
    exact: dict[tuple[str, str, int], float] = {}
    family = list(games(team=team).items())
    for time, number, agent in steps.asked.nonzero().tolist():
        name_of_game, game = family[number]
        code = int(steps.codes[time, number, agent])
        place = (name_of_game, AGENTS[agent], code)
        found[place] = round(float(learned[time, number, agent]), 2)
        exact[place] = exact_values(game, team=team, discount=GAMMA, entropy=row.entropy)[agent, code]
    wrong = {place: (found[place], exact[place]) for place in exact if abs(found[place] - exact[place]) > TOLERANCE}
    assert not wrong, f"found and exact: {wrong}"


def test_the_exact_values_are_those_of_pencil_and_paper():
    own, team = games(team=False), games(team=True)
    value = {name: exact_values(game, team=False, discount=0.5) for name, game in own.items()}
    assert value["all live"] == pytest.approx({(0, 0): 1.5, (0, 1): 1.0, (1, 0): 3.0, (1, 1): 2.0})
    assert value["one dies"] == pytest.approx({(0, 0): 1.0, (1, 0): 4.0, (1, 1): 4.0})
    assert value["one is cut off"] == pytest.approx({(0, 0): 4.0, (1, 0): 6.0})
    assert value["masks at the end"] == pytest.approx({(0, 0): -2.0, (1, 0): -4.0})
    value = {name: exact_values(game, team=True, discount=0.5) for name, game in team.items()}
    assert value["all live"] == pytest.approx({(0, 0): 4.5, (0, 1): 3.0, (1, 0): 4.5, (1, 1): 3.0})
    # 3 + 0.5 · 4 and 5 + 0.5 · 6, then the other's alone.
    assert value["one dies"] == pytest.approx({(0, 0): 5.0, (0, 2): 4.0, (1, 0): 5.0, (1, 1): 4.0})
    assert value["one is cut off"] == pytest.approx({(0, 0): 8.0, (0, 2): 6.0, (1, 0): 8.0, (1, 1): 6.0})
    assert value["masks at the end"] == pytest.approx({(0, 0): -6.0, (1, 0): -6.0})
    # With the entropy h of every later decision at half its weight: a team's member that is gone has none.
    h = 0.5 * math.log(3.0)
    value = {name: exact_values(game, team=True, discount=0.5, entropy=0.5) for name, game in team.items()}
    assert value["one dies"] == pytest.approx({(0, 0): 5.0, (0, 2): 4.0, (1, 0): 5.0 + h, (1, 1): 4.0 + h})
