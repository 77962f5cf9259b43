"""Batched MPE besides mpe2's numbers: resets, endings, splits over ranks, resume, clear errors."""

import importlib

import numpy as np
import pytest
import torch

from marl.core import EnvironmentRequest
from marl.envs.mpe import TASKS, BatchedMPE, make_batched, make_task
from marl.errors import InputError
from marl.testing.environment_checks import check_environment


def make(name, num_envs, *, first_env=0, seed=0, sharing="spaces", with_state=True, purpose="train", **arguments):
    factory = make_batched(f"mpe2.{name}", arguments, compile=False)
    return factory(
        EnvironmentRequest(
            num_envs=num_envs,
            first_env=first_env,
            seed=seed,
            sharing=sharing,
            with_state=with_state,
            purpose=purpose,
        )
    )


def random_actions(environment, generator):
    actions = {}
    for group in environment.spec.groups:
        shape = (environment.num_envs, group.size)
        if environment.task.continuous_actions:
            actions[group.name] = torch.rand((*shape, group.action.size), generator=generator) * 2 - 1
        else:
            actions[group.name] = torch.randint(group.action.num_actions, shape, generator=generator)
    return actions


def snapshot(timestep):
    """Everything in a time step, copied, as flat named tensors."""
    tensors = {"first": timestep.first}
    if timestep.state is not None:
        tensors["state"] = timestep.state
    for name, group in timestep.groups.items():
        for field in ("observations", "active", "rewards", "terminated", "truncated"):
            tensors[f"{name}.{field}"] = getattr(group, field)
    if timestep.final is not None:
        tensors["final.envs"] = timestep.final.envs
        tensors["final.state"] = timestep.final.state
        for name, group in timestep.final.groups.items():
            tensors[f"final.{name}"] = group.observations
    return {name: tensor.clone() for name, tensor in tensors.items() if tensor is not None}


def same(left, right):
    assert left.keys() == right.keys()
    for name in left:
        assert torch.equal(left[name], right[name]), name


ENDLESS = [("simple_spread_v3", {}), ("simple_world_comm_v3", {"continuous_actions": True})]
EARLY = ("simple_tag_v3", {"terminate_on_success": True, "num_adversaries": 6, "curriculum": True, "max_cycles": 30})


@pytest.mark.parametrize("arguments", [{}, {"continuous_actions": True, "max_cycles": 7}], ids=str)
@pytest.mark.parametrize("name", TASKS)
def test_every_task_keeps_the_promises_of_environments(name, arguments):
    check_environment(make_batched(name, arguments, compile=False))


@pytest.mark.parametrize("name", ["mpe2.simple_tag_v3", "mpe2.simple_spread_v3"])
def test_tasks_that_end_early_keep_the_promises_of_environments(name):
    check_environment(make_batched(name, {"terminate_on_success": True, "max_cycles": 9}, compile=False))


@pytest.mark.parametrize("name", TASKS)
def test_positions_at_reset_are_distributed_as_in_mpe2(name):
    envs, episodes = 500, 300
    name = name.removeprefix("mpe2.")
    environment = make(name, envs)
    environment.reset()
    ours = environment.env_state_dict()
    env = importlib.import_module(f"mpe2.{name}").parallel_env()
    theirs = []
    for seed in range(episodes):
        env.reset(seed=seed)
        theirs.append([entity.state.p_pos for entity in env.unwrapped.world.entities])
    theirs = np.array(theirs)
    assert ours["position"].shape[1:] == theirs.shape[1:]
    # Five standard errors of means and mean squares of both samples, and the same hard limits.
    scale = np.abs(theirs).max(axis=(0, 2), keepdims=True)[0]
    standard = 5 * scale * np.sqrt(1 / 3) * np.sqrt(1 / envs + 1 / episodes)
    position = ours["position"].numpy()
    assert (np.abs(position.mean(0) - theirs.mean(0)) < standard).all()
    assert (np.abs((position**2).mean(0) - (theirs**2).mean(0)) < standard * scale).all()
    limit = np.where(scale > 0.9001, 1.0, 0.9)
    assert (np.abs(position).max(0) <= limit + 1e-6).all()
    assert (np.abs(position).max(0) > 0.97 * limit).all()
    correlation = np.corrcoef(position.reshape(envs, -1).T)
    assert np.abs(correlation - np.eye(len(correlation))).max() < 5 / np.sqrt(envs)
    assert not ours["velocity"].any()
    assert not ours["communication"].any()


@pytest.mark.parametrize("name", [name for name in TASKS if make_task(name).goal_choices])
def test_goals_at_reset_are_even_and_independent(name):
    envs = 3000
    environment = make(name.removeprefix("mpe2."), envs)
    environment.reset()
    goals = environment.env_state_dict()["goals"].numpy()
    choices = environment.task.goal_choices
    joint = np.zeros(choices)
    np.add.at(joint, tuple(goals.T), 1)
    expected = envs / np.prod(choices)
    # A 99.99 % quantile of chi-squared with 8 degrees of freedom (the most that occur) is 31.8.
    assert ((joint - expected) ** 2 / expected).sum() < 31.8


def test_episodes_copies_and_purposes_differ_and_seeds_repeat():
    first = make("simple_spread_v3", 8)
    positions = []
    for _ in range(4):
        first.reset()
        positions.append(first.env_state_dict()["position"])
    rows = torch.cat(positions).flatten(1)
    assert len({tuple(row.tolist()) for row in rows}) == 32
    again = make("simple_spread_v3", 8)
    again.reset()
    assert torch.equal(again.env_state_dict()["position"], positions[0])
    for other in (make("simple_spread_v3", 8, seed=1), make("simple_spread_v3", 8, purpose="evaluate")):
        other.reset()
        assert not torch.equal(other.env_state_dict()["position"], positions[0])


@pytest.mark.parametrize(("name", "arguments"), [*ENDLESS, EARLY], ids=str)
def test_the_split_over_ranks_changes_no_number(name, arguments):
    whole = make(name, 6, **arguments)
    parts = [make(name, 2, **arguments), make(name, 4, first_env=2, **arguments)]
    generator = torch.Generator().manual_seed(0)
    whole_step, part_steps = whole.reset(), [part.reset() for part in parts]
    for _ in range(65):
        for group in whole_step.groups:
            ours = torch.cat([step.groups[group].observations for step in part_steps])
            assert torch.equal(whole_step.groups[group].observations, ours)
            ours = torch.cat([step.groups[group].rewards for step in part_steps])
            assert torch.equal(whole_step.groups[group].rewards, ours)
        assert torch.equal(whole_step.first, torch.cat([step.first for step in part_steps]))
        actions = random_actions(whole, generator)
        whole_step = whole.step(actions)
        part_steps = [
            parts[0].step({group: tensor[:2] for group, tensor in actions.items()}),
            parts[1].step({group: tensor[2:] for group, tensor in actions.items()}),
        ]


def test_all_copies_are_cut_off_together_and_their_last_observations_stay_available():
    environment = make("simple_spread_v3", 3, max_cycles=4)
    generator = torch.Generator().manual_seed(0)
    timestep = environment.reset()
    assert timestep.first.all()
    assert timestep.final is None
    for cycle in range(1, 13):
        timestep = environment.step(random_actions(environment, generator))
        group = timestep.groups["agent"]
        ends = cycle % 4 == 0
        assert timestep.first.tolist() == [ends] * 3
        assert group.truncated.all() == ends
        assert not group.terminated.any()
        assert group.active.all()
        assert (timestep.final is not None) == ends
        if ends:
            assert timestep.final.envs.tolist() == [0, 1, 2]
            last = timestep.final.groups["agent"].observations
            assert last.shape == group.observations.shape
            # The final observation moves on from the one before; the new episode's begins at rest.
            assert last[..., :2].abs().sum() > 0
            assert group.observations[..., :2].abs().sum() == 0
            assert torch.equal(timestep.final.state, last.flatten(1))
        assert torch.equal(timestep.state, group.observations.flatten(1))


def test_episodes_that_succeed_are_terminated_not_truncated():
    environment = make(EARLY[0], 16, **EARLY[1])
    generator = torch.Generator().manual_seed(0)
    environment.reset()
    lengths, endings = np.zeros(16, dtype=int), set()
    for _ in range(100):
        timestep = environment.step(random_actions(environment, generator))
        lengths += 1
        group = timestep.groups["adversary"]
        terminated, truncated = group.terminated[:, 0], group.truncated[:, 0]
        assert not (terminated & truncated).any()
        assert torch.equal(timestep.first, terminated | truncated)
        ended = timestep.first.nonzero().flatten()
        assert (timestep.final.envs.tolist() if timestep.final else []) == ended.tolist()
        assert (lengths[truncated.numpy()] == 30).all()
        assert (lengths[terminated.numpy()] < 30).all()
        for row in ended.tolist():
            endings.add((bool(terminated[row]), int(lengths[row])))
            assert not timestep.groups["adversary"].observations[row, :, :2].any()
            lengths[row] = 0
    assert len({length for terminated, length in endings if terminated}) > 3


@pytest.mark.parametrize(("name", "arguments"), [*ENDLESS, EARLY], ids=str)
@pytest.mark.parametrize("stop", [0, 7, 25, 30, 61])
def test_a_resumed_environment_goes_on_bit_for_bit(name, arguments, stop):
    generator = torch.Generator().manual_seed(0)
    undisturbed = make(name, 5, **arguments)
    actions = [random_actions(undisturbed, generator) for _ in range(100)]
    timestep = undisturbed.reset()
    for step in range(stop):
        timestep = undisturbed.step(actions[step])
    saved = {key: value.clone() for key, value in undisturbed.env_state_dict().items()}
    assert all(value.shape[0] == 5 for value in saved.values())
    resumed = make(name, 5, **arguments)
    resumed.load_state_dict(undisturbed.state_dict())
    resumed.load_env_state_dict(saved)
    same(snapshot(resumed.current()), snapshot(timestep))
    for step in range(stop, 100):
        same(snapshot(resumed.step(actions[step])), snapshot(undisturbed.step(actions[step])))


def test_copies_of_different_phases_go_on_each_at_its_own_place():
    environment = make("simple_spread_v3", 4, max_cycles=10)
    environment.reset()
    state = environment.env_state_dict()
    state["cycles"] = torch.tensor([0, 3, 6, 9])
    state["episodes"] = torch.tensor([0, 5, 2, 2])
    environment.load_env_state_dict(state)
    generator = torch.Generator().manual_seed(0)
    ends = [[] for _ in range(4)]
    for step in range(1, 21):
        timestep = environment.step(random_actions(environment, generator))
        for row in timestep.first.nonzero().flatten().tolist():
            ends[row].append(step)
    assert ends == [[10, 20], [7, 17], [4, 14], [1, 11]]


def test_foreign_checkpoints_are_refused():
    environment = make("simple_spread_v3", 2)
    with pytest.raises(KeyError):
        environment.load_env_state_dict({})
    with pytest.raises(ValueError, match="position of a saved simple_spread_v3 has shape"):
        environment.load_env_state_dict(make("simple_spread_v3", 2, N=4).env_state_dict())


def test_many_agents_keep_the_order_of_their_names_in_groups_and_mpe2s_in_the_state():
    environment = make("simple_spread_v3", 2, N=11)
    agents = environment.spec.groups[0].agents
    assert agents[:3] == ("agent_0", "agent_1", "agent_10")
    timestep = environment.reset()
    size = environment.spec.groups[0].observation.size
    for _ in range(30):
        for column, agent in enumerate(agents):
            start = int(agent.removeprefix("agent_")) * size
            assert torch.equal(
                timestep.groups["agent"].observations[:, column], timestep.state[:, start : start + size]
            )
        timestep = environment.step({"agent": torch.arange(22).view(2, 11) % 5})


def test_the_state_is_left_out_where_nobody_asked_for_it():
    environment = make("simple_tag_v3", 2, with_state=False, max_cycles=1)
    assert environment.spec.state is None
    assert environment.reset().state is None
    timestep = environment.step({"adversary": torch.zeros(2, 3).long(), "agent_0": torch.zeros(2, 1).long()})
    assert timestep.state is None
    assert timestep.final.state is None


def test_numbers_stay_finite_when_agents_fly_far_apart():
    environment = make("simple_spread_v3", 2, max_cycles=100_000)
    environment.reset()
    actions = {"agent": torch.tensor([[1, 2, 3], [4, 4, 4]])}
    for _ in range(2000):
        timestep = environment.step(actions)
    assert torch.isfinite(timestep.state).all()
    assert torch.isfinite(timestep.groups["agent"].rewards).all()


def test_a_missing_compiler_is_named_and_does_not_matter_by_default(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    request = EnvironmentRequest(num_envs=256)
    BatchedMPE(make_task("mpe2.simple_v3"), request).reset()
    with pytest.raises(InputError, match="no compiler for cpu was found"):
        BatchedMPE(make_task("mpe2.simple_v3"), request, compile=True)


def test_actions_of_other_integer_types_and_layouts_mean_the_same():
    left, right = make("simple_spread_v3", 4), make("simple_spread_v3", 4)
    left.reset(), right.reset()
    actions = torch.arange(12).view(3, 4) % 5
    ours = snapshot(left.step({"agent": actions.T.to(torch.int32)}))
    same(ours, snapshot(right.step({"agent": actions.T.contiguous()})))


def test_actions_of_a_wrong_shape_are_refused():
    environment = make("simple_spread_v3", 4)
    environment.reset()
    with pytest.raises(ValueError, match=r"actions of agent have shape \(4, 2\), not \(4, 3\)"):
        environment.step({"agent": torch.zeros(4, 2, dtype=torch.int64)})


def test_time_steps_can_be_learned_from():
    environment = make("simple_tag_v3", 2, terminate_on_success=True, max_cycles=1)
    environment.reset()
    timestep = environment.step({"adversary": torch.zeros(2, 3).long(), "agent_0": torch.zeros(2, 1).long()})
    weight = torch.ones(16, requires_grad=True)
    for observations in (timestep.groups["adversary"].observations, timestep.final.groups["adversary"].observations):
        (observations @ weight).sum().backward()
    assert weight.grad is not None
