"""Conformance checks of algorithms, for users' own ones too; the tests run them on every builder here."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from marl.acting.actors import PolicyActor
from marl.builders import Builder
from marl.checkpoints.checkpoint import load_checkpoint
from marl.checkpoints.checkpointer import Checkpointer
from marl.core import Communicator, EnvironmentFactory, EnvironmentRequest, State, VectorEnvironment
from marl.distributed.replica_checks import ReplicaError
from marl.errors import InputError
from marl.experiments.config import ExperimentConfig
from marl.experiments.experiment import Experiment
from marl.loggers.base import Logger
from marl.specs import (
    AgentSpec,
    ArraySpec,
    ContinuousActions,
    DiscreteActions,
    EnvironmentSpec,
    GroupSpec,
    MultiDiscreteActions,
    group_agents,
)
from marl.testing.environment_checks import ConformanceError
from marl.testing.fake_environment import FakeVectorEnvironment
from marl.testing.threads import run_on_threads

_BUDGET = 20_000


def _agents(count: int, name: str, action: Any, *, shape: tuple[int, ...] = (6,), **more: Any) -> list[AgentSpec]:
    observation = ArraySpec(shape=shape, dtype=more.pop("dtype", torch.float32))
    return [AgentSpec(name=f"{name}_{i}", observation=observation, action=action, **more) for i in range(count)]


def algorithm_specs() -> dict[str, EnvironmentSpec]:
    """Specs of environments of all kinds, by name, for ``check_algorithm``.

    ``discrete``, ``masked``, ``alone`` (one agent), ``groups`` (of different spaces), ``bytes`` (small boards),
    ``multi-discrete``, ``continuous``, ``mixed`` (a continuous and a discrete group), ``turns``.
    """
    five, three = DiscreteActions(num_actions=5), DiscreteActions(num_actions=3)
    real = ContinuousActions(low=(-1.0, -2.0), high=(1.0, 2.0))
    several = MultiDiscreteActions(nvec=(3, 2))
    members = {
        "discrete": _agents(3, "agent", five),
        "masked": _agents(2, "agent", five, masked=True),
        "alone": _agents(1, "agent", three),
        "groups": [*_agents(2, "a", five, masked=True), *_agents(1, "b", three, shape=(2, 2))],
        "bytes": _agents(2, "agent", five, shape=(6, 5, 2), dtype=torch.uint8),
        "multi-discrete": _agents(2, "agent", several),
        "continuous": _agents(2, "agent", real),
        "mixed": [*_agents(2, "a", real), *_agents(1, "b", three)],
        "turns": _agents(2, "agent", five, masked=True),
    }
    state = ArraySpec(shape=(7,))
    return {
        name: EnvironmentSpec(groups=group_agents(agents), state=state, turn_based=name == "turns")
        for name, agents in members.items()
    }


def fake_factory(spec: EnvironmentSpec) -> EnvironmentFactory:
    """Makes a factory of random environments of this spec, whose agents are grouped as requested, and die at times."""

    def agents(group: GroupSpec) -> list[AgentSpec]:
        return [
            AgentSpec(name=name, observation=group.observation, action=group.action, masked=group.masked)
            for name in group.agents
        ]

    everyone = [agent for group in spec.groups for agent in agents(group)]

    def make(request: EnvironmentRequest) -> VectorEnvironment:
        wanted = EnvironmentSpec(
            groups=group_agents(everyone, request.sharing),
            state=spec.state if request.with_state else None,
            turn_based=spec.turn_based,
        )
        return FakeVectorEnvironment(
            wanted,
            num_envs=request.num_envs,
            first_env=request.first_env,
            seed=request.seed,
            purpose=request.purpose,
            death_rate=0.0 if spec.turn_based else 0.1,
        )

    return make


# -------------------------------------------------------------------------------------------------------- checks


@dataclass(frozen=True, slots=True, kw_only=True)
class _Finished:
    experiment: Experiment
    before: State
    after: State
    rows: list[dict[str, float]]


class _Rows(Logger):
    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def write(self, row: Mapping[str, float]) -> None:
        self.rows.append(dict(row))


def check_algorithm(
    builder: Builder[Any],
    claims: Mapping[str, EnvironmentSpec],
    refuses: Mapping[str, EnvironmentSpec] | None = None,
    *,
    updates: int = 4,
    num_envs: int = 5,
    ranks: Sequence[int] = (2, 3),
    resumes_exactly: bool = True,
    seed: int = 0,
) -> None:
    """Checks all promises of builders, on random environments.

    On every claimed spec: parts are built, actions are legal, updates change parameters and everything stays
    finite; the same seed gives the same run; a checkpoint, written and read, gives the same policies and goes on;
    several ranks end with the same parameters as one. Other specs are refused in one line.

    Args:
        builder: the algorithm, with settings that let it learn within some thousand environment steps.
        claims: specs that it can learn on, by name; ``algorithm_specs`` has some of all kinds.
        refuses: specs that it must refuse, by name.
        updates: number of updates of each run.
        num_envs: environment copies.
        ranks: numbers of ranks to compare with one.
        resumes_exactly: whether a run that goes on from a checkpoint ends as if it had not been stopped; replay
            that is not saved cannot promise this.
        seed: of everything.

    Raises:
        ConformanceError: a promise does not hold; says which, on which spec, and what was found.
    """
    for name, spec in (refuses or {}).items():
        check_refusal(builder, spec, name)
    for name, spec in claims.items():
        config = ExperimentConfig(
            builder=builder,
            environment=fake_factory(spec),
            seed=seed,
            steps=_BUDGET,
            num_envs=num_envs,
            evaluation_episodes=0,
        )
        try:
            finished = check_update(config, updates)
            check_checkpoint(config, updates, exactly=resumes_exactly)
            for size in ranks:
                check_ranks(config, updates, finished.after, size)
        except ConformanceError as error:
            raise ConformanceError(error.rule, f"{type(builder).__name__} on {name}: {_detail(error)}") from error
        except Exception as error:
            raise ConformanceError(
                "algorithms run on every spec that they claim",
                f"{type(builder).__name__} on {name}: {type(error).__name__}: {error}",
            ) from error


def check_refusal(builder: Builder[Any], spec: EnvironmentSpec, name: str) -> None:
    """Checks that the builder refuses this spec, with the reason in one line."""
    rule = "what an algorithm cannot learn on is refused with a reason"
    config = ExperimentConfig(builder=builder, environment=fake_factory(spec), num_envs=2)
    try:
        Experiment(config)
    except InputError as error:
        if "\n" in str(error) or not str(error):
            raise ConformanceError(rule, f"{name}: the reason is not one line: {error!r}") from error
        return
    except Exception as error:
        raise ConformanceError(rule, f"{name}: {type(error).__name__}, not InputError: {error}") from error
    raise ConformanceError(rule, f"{name} is not refused")


def check_update(config: ExperimentConfig, updates: int) -> _Finished:
    """Checks that updates change parameters, everything stays finite, and the same seed gives the same run."""
    finished = _train(config, updates)
    _check_finite(finished.experiment.learner.state_dict(), "the learner's state")
    for row in finished.rows:
        for name, value in row.items():
            if not math.isfinite(value):
                raise ConformanceError("metrics are finite", f"{name} is {value} after {row['updates']:.0f} updates")
    if all(torch.equal(finished.before[name], finished.after[name]) for name in finished.before):
        raise ConformanceError("updates change parameters", f"none of them moved in {updates}")
    _compare(finished.after, _train(config, updates).after, "a run depends on nothing but its settings and seed")
    other = _train(replace(config, seed=config.seed + 1), 1).after
    if all(torch.equal(finished.after[name], other[name]) for name in other):
        raise ConformanceError("another seed gives another run", "parameters are the same")
    return finished


def check_checkpoint(config: ExperimentConfig, updates: int, *, exactly: bool) -> None:
    """Checks that a loaded checkpoint gives the saved parameters and actions, and that the run goes on from it."""
    rule = "a checkpoint holds everything"
    with tempfile.TemporaryDirectory() as folder:
        saved = _train(config, updates, checkpointer=Checkpointer(Path(folder))).experiment
        resumed = Experiment(config)
        resumed.load(load_checkpoint(Path(folder)))
    pairs = [(saved.learner, resumed.learner), (saved.actor, resumed.actor)]
    if exactly:
        pairs += [(saved.dataset, resumed.dataset), (saved.adder, resumed.adder)]
    for one, other in pairs:
        _compare(one.state_dict(), other.state_dict(), rule)
        _compare(one.env_state_dict(), other.env_state_dict(), rule)
    networks = config.builder.make_networks(saved.spec)
    config.builder.load_policies(networks, saved.learner.state_dict())
    policies = config.builder.make_policies(saved.spec, networks, evaluation=True)
    timestep = saved.environment.current()
    acted = []
    for greedy in (saved.greedy, resumed.greedy, policies):
        sizes = {group.name: group.size for group in saved.spec.groups}
        actor = PolicyActor(greedy, sizes, num_envs=config.num_envs, seed=config.seed, purpose="check")
        acted.append({name: actions.clone() for name, actions in actor.select_actions(timestep).items()})
    for actions in acted[1:]:
        _compare(acted[0], actions, "loaded policies act as those that were saved")
    # More updates than one may fit into one step of the environments, so the counts decide where to stop.
    target = resumed.counter.updates + updates
    _go_on(resumed, target)
    after = resumed.learner.get_variables()
    _check_finite(after, "a resumed learner's parameters")
    if exactly:
        _compare(_train(config, target).after, after, "a resumed run ends as if it had not been stopped")


def check_ranks(config: ExperimentConfig, updates: int, expected: State, size: int) -> None:
    """Checks that ranks end with equal parameters, bit by bit, and with those of one rank up to summation."""
    try:
        after = run_on_threads(size, lambda ranks: _train(config, updates, ranks))[0].after
    except ReplicaError as error:
        raise ConformanceError("replicas are equal", str(error)) from error
    names = [name for name, tensor in expected.items() if tensor.is_floating_point()]
    one, several = (torch.cat([state[name].double().flatten() for name in names]) for state in (expected, after))
    distance = float((several - one).norm() / one.norm())
    if not distance < 1e-3:
        raise ConformanceError(
            "the number of ranks changes the speed, not the experiment",
            f"after {updates} updates parameters of {size} ranks are {distance:.2g} of their size away from one rank's",
        )


def _train(
    config: ExperimentConfig,
    updates: int,
    communicator: Communicator | None = None,
    *,
    checkpointer: Checkpointer | None = None,
) -> _Finished:
    experiment = Experiment(config, communicator)
    before = _copy(experiment.learner.get_variables())
    rows = _go_on(experiment, updates, checkpointer)
    return _Finished(experiment=experiment, before=before, after=_copy(experiment.learner.get_variables()), rows=rows)


def _go_on(experiment: Experiment, updates: int, checkpointer: Checkpointer | None = None) -> list[dict[str, float]]:
    logger = _Rows()
    experiment.run(logger, checkpointer, lambda: experiment.counter.updates >= updates)
    if experiment.counter.updates < updates:
        raise ConformanceError(
            "algorithms learn within a few thousand steps under test settings",
            f"{experiment.counter.updates} updates after {experiment.counter.env_steps} environment steps",
        )
    return logger.rows


def _copy(state: State) -> State:
    return {name: tensor.detach().clone() for name, tensor in state.items()}


def _compare(one: State, other: State, rule: str) -> None:
    if one.keys() != other.keys():
        raise ConformanceError(rule, f"only once there: {', '.join(sorted(one.keys() ^ other.keys()))}")
    for name in one:
        if one[name].shape != other[name].shape or not torch.equal(one[name], other[name]):
            raise ConformanceError(rule, f"{name} differs")


def _check_finite(state: State, what: str) -> None:
    for name, tensor in state.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ConformanceError("parameters stay finite", f"{name} of {what} does not")


def _detail(error: ConformanceError) -> str:
    return str(error).removeprefix(f"{error.rule}: ")
