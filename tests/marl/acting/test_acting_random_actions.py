"""Random actions are legal, uniform, and a copy's own."""

import torch

from marl.acting.random_actions import RandomActions
from marl.actions import legal_actions, random_actions
from marl.specs import ArraySpec, ContinuousActions, DiscreteActions, EnvironmentSpec, GroupSpec, MultiDiscreteActions
from marl.testing.fake_environment import FakeVectorEnvironment


def group(name, action, *, masked=False):
    agents = (f"{name}_0", f"{name}_1")
    return GroupSpec(name=name, agents=agents, observation=ArraySpec(shape=(4,)), action=action, masked=masked)


def test_random_actions_are_legal_and_uniform():
    spec = DiscreteActions(num_actions=4)
    mask = torch.tensor([True, False, True, True]).expand(30_000, 4)
    uniforms = (torch.arange(30_000) + 0.5)[:, None] / 30_000
    chosen = random_actions(spec, uniforms, mask)
    assert torch.bincount(chosen, minlength=4).tolist() == [10_000, 0, 10_000, 10_000]
    assert random_actions(ContinuousActions(low=(0.0,), high=(5.0,)), torch.tensor([[0.75]]), None).tolist() == [[0.5]]


def test_legality_is_judged_by_bounds_and_masks():
    spec = MultiDiscreteActions(nvec=(2, 3))
    actions = torch.tensor([[0, 0], [1, 2], [1, 3], [-1, 0], [0, 1]])
    assert legal_actions(spec, actions, None).tolist() == [True, True, False, False, True]
    mask = torch.tensor([True, True, True, False, True]).expand(5, 5)
    assert legal_actions(spec, actions, mask).tolist() == [True, True, False, False, False]
    assert legal_actions(DiscreteActions(num_actions=2), torch.tensor([0, 2]), None).tolist() == [True, False]
    nan = torch.tensor([[0.0], [torch.nan]])
    assert legal_actions(ContinuousActions(low=(0.0,), high=(1.0,)), nan, None).tolist() == [True, False]


def test_random_actions_of_a_copy_do_not_depend_on_its_neighbours():
    spec = EnvironmentSpec(
        groups=(
            group("choice", DiscreteActions(num_actions=3), masked=True),
            group("choices", MultiDiscreteActions(nvec=(2, 3)), masked=True),
            group("vector", ContinuousActions(low=(0.0, -1.0), high=(1.0, 1.0))),
        ),
        state=None,
        turn_based=False,
    )
    four = FakeVectorEnvironment(spec, num_envs=4).reset()
    two = FakeVectorEnvironment(spec, num_envs=2, first_env=2).reset()
    whole = RandomActions(spec, num_envs=4)(four)
    half = RandomActions(spec, num_envs=2, first_env=2)(two)
    assert all(torch.equal(whole[name][2:], half[name]) for name in whole)
