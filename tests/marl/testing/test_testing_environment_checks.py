import dataclasses

import pytest
import torch

from marl.acting.random_actions import RandomActions
from marl.specs import ArraySpec, ContinuousActions, DiscreteActions, EnvironmentSpec, GroupSpec, MultiDiscreteActions
from marl.testing.environment_checks import (
    ConformanceError,
    check_environment,
    check_independence,
    check_resume,
    check_timesteps,
    tensors_of,
)
from marl.testing.fake_environment import FakeVectorEnvironment

VECTOR = ArraySpec(shape=(4,))
IMAGE = ArraySpec(shape=(5, 4, 3), dtype=torch.uint8)


def group(name, action, *, observation=VECTOR, size=2, masked=False):
    agents = tuple(f"{name}_{index}" for index in range(size))
    return GroupSpec(name=name, agents=agents, observation=observation, action=action, masked=masked)


def everything(*, turn_based=False):
    return EnvironmentSpec(
        groups=(
            group("choice", DiscreteActions(num_actions=3), masked=True),
            group("image", MultiDiscreteActions(nvec=(2, 3)), observation=IMAGE, size=1, masked=True),
            group("vector", ContinuousActions(low=(0.0, -1.0), high=(1.0, 1.0)), size=3),
        ),
        state=VECTOR,
        turn_based=turn_based,
    )


def factory_of(spec, kind=FakeVectorEnvironment, **options):
    def make(request):
        return kind(
            spec,
            num_envs=request.num_envs,
            first_env=request.first_env,
            seed=request.seed,
            purpose=request.purpose,
            **options,
        )

    return make


@pytest.mark.parametrize("turn_based", [False, True])
@pytest.mark.parametrize("death_rate", [0.0, 0.2])
def test_fakes_of_every_kind_keep_all_promises(turn_based, death_rate):
    check_environment(factory_of(everything(turn_based=turn_based), death_rate=death_rate), steps=60)


def test_fakes_show_deaths_and_both_kinds_of_endings():
    environment = FakeVectorEnvironment(everything(), num_envs=4, death_rate=0.1)
    choose = RandomActions(environment.spec, num_envs=4)
    timestep = environment.reset()
    seen = {"terminated": 0, "truncated": 0, "partly": 0, "final": 0}
    for _ in range(100):
        timestep = environment.step(choose(timestep))
        for step in timestep.groups.values():
            seen["terminated"] += int(step.terminated.sum())
            seen["truncated"] += int(step.truncated.sum())
            seen["partly"] += int((step.active.any(-1) & ~step.active.all(-1)).sum())
        seen["final"] += timestep.final is not None
    assert all(seen.values())


def test_fakes_refuse_illegal_actions_of_active_agents():
    environment = FakeVectorEnvironment(everything(), num_envs=2)
    timestep = environment.reset()
    actions = dict(RandomActions(environment.spec, num_envs=2)(timestep))
    with pytest.raises(ValueError, match="choice_1 took an illegal action in copy 1"):
        environment.step({**actions, "choice": actions["choice"] + torch.tensor([[0, 0], [0, 3]])})
    with pytest.raises(ValueError, match="actions of vector are"):
        environment.step({**actions, "vector": torch.zeros(2, 3)})
    with pytest.raises(ValueError, match="not for the spec's groups"):
        environment.step({"choice": actions["choice"]})


def test_tensors_of_a_time_step_are_copies():
    timestep = FakeVectorEnvironment(everything()).reset()
    tensors = tensors_of(timestep)
    timestep.groups["choice"].rewards[:] = 9
    assert not tensors["choice.rewards"].any()
    assert {"first", "state", "image.observations", "choice.action_masks"} <= set(tensors)


SIMPLE = EnvironmentSpec(groups=(group("choice", DiscreteActions(num_actions=3)),), state=VECTOR)


def spoilt(change, *, spec=SIMPLE, **options):
    """A fake whose every step is changed by a function of (groups' one step, time step)."""

    class Spoilt(FakeVectorEnvironment):
        def step(self, actions):
            return change(super().step(actions))

    return factory_of(spec, Spoilt, **options)


def with_group(timestep, **changes):
    name = next(iter(timestep.groups))
    changed = {field: change(getattr(timestep.groups[name], field)) for field, change in changes.items()}
    groups = {**timestep.groups, name: dataclasses.replace(timestep.groups[name], **changed)}
    return dataclasses.replace(timestep, groups=groups)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda t: with_group(t, rewards=lambda x: x.double()), "shapes and dtypes"),
        (lambda t: with_group(t, observations=lambda x: x[..., :2]), "shapes and dtypes"),
        (lambda t: with_group(t, rewards=lambda x: x / 0), "numbers are finite"),
        (lambda t: with_group(t, active=torch.zeros_like), "somebody is active"),
        (lambda t: with_group(t, terminated=torch.ones_like, truncated=torch.ones_like), "at once"),
        (lambda t: dataclasses.replace(t, final=None), "last observations of exactly"),
        (lambda t: dataclasses.replace(t, first=torch.zeros_like(t.first)), "last observations of exactly"),
        (lambda t: dataclasses.replace(t, state=None), "there is a state"),
        (lambda t: dataclasses.replace(t, groups={}), "groups are those"),
        (lambda t: with_group(t, terminated=torch.zeros_like, truncated=torch.zeros_like), "nobody is left"),
    ],
)
def test_broken_promises_are_found(change, rule):
    with pytest.raises(ConformanceError, match=rule):
        check_timesteps(spoilt(change), steps=30)


def test_living_dead_are_found():
    with pytest.raises(ConformanceError, match="the dead are not active"):
        check_timesteps(spoilt(lambda t: with_group(t, active=torch.ones_like), death_rate=0.3), steps=30)
    with pytest.raises(ConformanceError, match="the dead get no rewards"):
        check_timesteps(spoilt(lambda t: with_group(t, rewards=torch.ones_like), death_rate=0.3), steps=60)


def test_copies_that_depend_on_each_other_are_found():
    class Entangled(FakeVectorEnvironment):
        def step(self, actions):
            return with_group(super().step(actions), rewards=lambda rewards: rewards + rewards.mean())

    with pytest.raises(ConformanceError, match=r"beside it: choice\.rewards differs in copy 0"):
        check_independence(factory_of(SIMPLE, Entangled))


def test_an_environment_that_forgets_on_resuming_is_found():
    class Forgetful(FakeVectorEnvironment):
        def load_env_state_dict(self, state):
            super().load_env_state_dict({**state, "age": torch.zeros_like(state["age"])})

    with pytest.raises(ConformanceError, match="goes on alike"):
        check_resume(factory_of(SIMPLE, Forgetful))


def test_an_environment_that_saves_nothing_is_let_pass():
    class Fleeting(FakeVectorEnvironment):
        def env_state_dict(self):
            return {}

    check_resume(factory_of(SIMPLE, Fleeting))


def test_fakes_need_a_reset():
    with pytest.raises(ValueError, match="reset"):
        FakeVectorEnvironment(SIMPLE).current()
    assert FakeVectorEnvironment(SIMPLE, num_envs=3).reset().first.shape == (3,)
