"""A trajectory holds what the environment gave, step by step, whatever is overwritten later."""

import pytest
import torch
from probes import anything

from marl.adders.trajectories import TrajectoryAdder, TrajectoryDataset
from marl.core import EnvironmentRequest
from marl.specs import AgentSpec, ArraySpec, ContinuousActions, DiscreteActions, MultiDiscreteActions
from marl.types import FinalGroupStep, FinalStep, GroupStep, TimeStep

FIVE, PAIR = DiscreteActions(num_actions=5), MultiDiscreteActions(nvec=(3, 2))
GAME = anything(
    AgentSpec(name="a_0", observation=ArraySpec(shape=(4,)), action=FIVE, masked=True),
    AgentSpec(name="a_1", observation=ArraySpec(shape=(4,)), action=FIVE, masked=True),
    AgentSpec(name="b", observation=ArraySpec(shape=(2, 3), dtype=torch.uint8), action=PAIR),
    AgentSpec(name="c", observation=ArraySpec(shape=(1,)), action=ContinuousActions(low=(0.0,), high=(1.0,))),
)
LENGTH, COPIES = 6, 3
EXTRAS = {
    "a": {"log_probs": ArraySpec(shape=()), "states": ArraySpec(shape=(5,))},
    "b": {},
    "c": {"count": ArraySpec(shape=(), dtype=torch.int64)},
}


def clone(timestep: TimeStep) -> TimeStep:
    def copy(tensor):
        return None if tensor is None else tensor.clone()

    groups = {
        name: GroupStep(**{field: copy(getattr(step, field)) for field in GroupStep.__dataclass_fields__})
        for name, step in timestep.groups.items()
    }
    final = timestep.final
    if final is not None:
        final = FinalStep(
            envs=final.envs.clone(),
            groups={
                name: FinalGroupStep(observations=step.observations.clone(), action_masks=copy(step.action_masks))
                for name, step in final.groups.items()
            },
            state=copy(final.state),
        )
    return TimeStep(groups=groups, state=copy(timestep.state), first=timestep.first.clone(), final=final)


def destroy(timestep: TimeStep) -> None:
    """Overwrites a time step's tensors, as the environment's next step does."""
    for step in timestep.groups.values():
        for field in GroupStep.__dataclass_fields__:
            tensor = getattr(step, field)
            if tensor is not None:
                tensor.zero_()
    if timestep.state is not None:
        timestep.state.zero_()
    timestep.first.zero_()
    if timestep.final is not None:
        timestep.final.envs.zero_()
        for step in timestep.final.groups.values():
            step.observations.zero_()
            if step.action_masks is not None:
                step.action_masks.zero_()
        if timestep.final.state is not None:
            timestep.final.state.zero_()


class Recorder:
    """Plays at random, fills a dataset, and keeps copies of everything itself."""

    def __init__(self, *, with_state=True):
        self.environment = GAME(EnvironmentRequest(num_envs=COPIES, with_state=with_state))
        self.dataset = TrajectoryDataset(self.environment.spec, length=LENGTH, num_envs=COPIES, extras=EXTRAS)
        self.adder = TrajectoryAdder(self.dataset)
        self.generator = torch.Generator().manual_seed(0)
        timestep = self.environment.reset()
        self.steps = [clone(timestep)]
        self.actions, self.extras = [], []
        self.adder.add_first(timestep)
        destroy(timestep)

    def step(self):
        masks = self.steps[-1].groups["a"].action_masks
        actions = {
            "a": torch.multinomial(masks.float().flatten(0, 1), 1, generator=self.generator).view(COPIES, 2),
            "b": torch.randint(2, (COPIES, 1, 2), generator=self.generator),
            "c": torch.rand(COPIES, 1, 1, generator=self.generator),
        }
        extras = {
            "a": {
                "log_probs": torch.rand(COPIES, 2, generator=self.generator),
                "states": torch.rand(COPIES, 2, 5, generator=self.generator),
            },
            "b": {},
            "c": {"count": torch.full((COPIES, 1), len(self.actions))},
        }
        timestep = self.environment.step(actions)
        self.actions.append({name: tensor.clone() for name, tensor in actions.items()})
        self.extras.append({g: {name: tensor.clone() for name, tensor in e.items()} for g, e in extras.items()})
        self.steps.append(clone(timestep))
        self.adder.add(actions, extras, timestep)
        destroy(timestep)
        for tensor in (*actions.values(), *(tensor for group in extras.values() for tensor in group.values())):
            tensor.zero_()

    def check(self, trajectory, begin):
        """Against steps begin … begin + LENGTH."""
        rows, after = self.steps[begin : begin + LENGTH + 1], self.steps[begin + 1 : begin + LENGTH + 1]
        assert (trajectory.length, trajectory.num_envs) == (LENGTH, COPIES)
        assert torch.equal(trajectory.first, torch.stack([step.first for step in rows]))
        if trajectory.state is not None:
            assert torch.equal(trajectory.state, torch.stack([step.state for step in rows]))
        for name, group in trajectory.groups.items():
            for field in ("observations", "action_masks", "active"):
                expected = [getattr(step.groups[name], field) for step in rows]
                assert getattr(group, field) is None if expected[0] is None else True
                if expected[0] is not None:
                    assert torch.equal(getattr(group, field), torch.stack(expected))
            for field in ("rewards", "terminated", "truncated"):
                assert torch.equal(getattr(group, field), torch.stack([getattr(s.groups[name], field) for s in after]))
            taken = self.actions[begin : begin + LENGTH]
            assert torch.equal(group.actions, torch.stack([actions[name] for actions in taken]))
            for key, tensor in group.extras.items():
                noted = self.extras[begin : begin + LENGTH]
                assert torch.equal(tensor, torch.stack([extras[name][key] for extras in noted]))
        finals = trajectory.finals
        ended = [(t, step.final) for t, step in enumerate(after) if step.final is not None]
        pairs = [(t, copy) for t, final in ended for copy in final.envs.tolist()]
        assert list(zip(finals.times.tolist(), finals.envs.tolist(), strict=True)) == pairs
        # Where an episode ended, and only there, the next row begins one.
        assert sorted(map(tuple, trajectory.first[1:].nonzero().tolist())) == pairs
        for name, group in finals.groups.items():
            if ended:
                expected = torch.cat([final.groups[name].observations for _, final in ended])
                assert torch.equal(group.observations, expected)
            if trajectory.groups[name].action_masks is not None:
                assert group.action_masks.shape[0] == len(pairs)
        if trajectory.state is not None and ended:
            assert torch.equal(finals.state, torch.cat([final.state for _, final in ended]))
        return len(pairs)


@pytest.mark.parametrize("with_state", [True, False])
def test_trajectories_hold_every_step_and_go_on_where_the_last_one_ended(with_state):
    recorder = Recorder(with_state=with_state)
    episodes = 0
    for rollout in range(5):
        for step in range(LENGTH):
            assert not recorder.dataset.ready()
            assert recorder.dataset.at_boundary() == (step == 0)
            recorder.step()
        assert recorder.dataset.ready()
        assert not recorder.dataset.at_boundary()
        trajectory = recorder.dataset.sample()
        assert not recorder.dataset.ready()
        assert (trajectory.state is not None) == with_state
        episodes += recorder.check(trajectory, rollout * LENGTH)
    assert episodes > 5


def test_a_trajectory_without_ends_has_empty_finals_of_the_right_shapes():
    recorder = Recorder()
    for step in recorder.steps:
        assert step.final is None
    dataset = TrajectoryDataset(recorder.environment.spec, length=1, num_envs=COPIES, extras=EXTRAS)
    quiet = next(step for step in _walk(recorder) if step.final is None)
    dataset.write_first(quiet)
    zeros = {name: torch.zeros_like(tensor) for name, tensor in recorder.actions[-1].items()}
    dataset.write(zeros, recorder.extras[-1], quiet)
    finals = dataset.sample().finals
    assert finals.times.shape == finals.envs.shape == (0,)
    assert finals.times.dtype == finals.envs.dtype == torch.int64
    assert finals.groups["a"].observations.shape == (0, 2, 4)
    assert finals.groups["a"].action_masks.shape == (0, 2, 5)
    assert finals.groups["b"].observations.shape == (0, 1, 2, 3)
    assert finals.groups["b"].observations.dtype == torch.uint8
    assert finals.groups["b"].action_masks is None
    assert finals.state.shape == (0, 7)


def _walk(recorder):
    for _ in range(LENGTH):
        recorder.step()
        yield recorder.steps[-1]


def test_a_full_trajectory_takes_no_more_steps_and_a_short_one_is_not_given_out():
    recorder = Recorder()
    with pytest.raises(RuntimeError, match="has only 0"):
        recorder.dataset.sample()
    for _ in range(LENGTH):
        recorder.step()
    with pytest.raises(RuntimeError, match="full"):
        recorder.step()


def test_beginning_anew_forgets_a_half_gathered_trajectory():
    recorder = Recorder()
    for _ in range(LENGTH - 1):
        recorder.step()
    begin = len(recorder.steps)
    timestep = recorder.environment.reset()
    recorder.steps.append(clone(timestep))
    recorder.adder.add_first(timestep)
    for _ in range(LENGTH):
        recorder.step()
    # One more time step than actions was recorded: the second first one.
    recorder.actions.insert(begin - 1, None)
    recorder.extras.insert(begin - 1, None)
    recorder.check(recorder.dataset.sample(), begin)
