"""Actors draw the same numbers however copies are split, and hand on what policies note and remember."""

import pytest
import torch
from probes import anything

from marl.acting.actors import PolicyActor
from marl.core import Adder, EnvironmentRequest
from marl.policy import Decision, Policy
from marl.specs import AgentSpec, ArraySpec, ContinuousActions

GAME = anything(
    AgentSpec(name="a_0", observation=ArraySpec(shape=(2,)), action=ContinuousActions(low=(0,) * 3, high=(1,) * 3)),
    AgentSpec(name="a_1", observation=ArraySpec(shape=(2,)), action=ContinuousActions(low=(0,) * 3, high=(1,) * 3)),
    AgentSpec(name="b", observation=ArraySpec(shape=(1,)), action=ContinuousActions(low=(0,), high=(1,))),
)
SIZES = {"a": 2, "b": 1}
STEPS = 70


class Noise(Policy):
    """Plays its random numbers, and counts the steps of each episode in its recurrent state."""

    def __init__(self, agents: int, uniforms: int, *, recurrent: bool = True) -> None:
        self.num_uniforms = uniforms
        self._agents, self._recurrent = agents, recurrent

    def initial_state(self, num_envs):
        return torch.zeros(num_envs, self._agents, 1) if self._recurrent else None

    def act(self, step, first, state, uniforms):
        if state is not None:
            state = state * (~first).view(-1, 1, 1) + 1.0
        return Decision(actions=uniforms.clone(), extras={"steps": step.rewards + 0.0}, state=state)


class Silent(Noise):
    """Takes no random numbers."""

    def act(self, step, first, state, uniforms):
        assert uniforms is None
        return Decision(actions=torch.zeros(first.shape[0], self._agents, 1), extras={}, state=None)


def make(first=0, count=4, *, seed=0, purpose="act", adder=None, policies=None, steps=0):
    if policies is None:
        policies = {"a": Noise(2, 3), "b": Noise(1, 1)}
    actor = PolicyActor(policies, SIZES, num_envs=count, seed=seed, purpose=purpose, first_env=first, adder=adder)
    environment = GAME(EnvironmentRequest(num_envs=count, first_env=first))
    timestep = environment.reset()
    actor.observe_first(timestep)
    return actor, environment, timestep


def play(parts, steps):
    actor, environment, timestep = parts
    played = []
    for _ in range(steps):
        actions = actor.select_actions(timestep)
        played.append({name: tensor.clone() for name, tensor in actions.items()})
        timestep = environment.step(actions)
        actor.observe(actions, timestep)
    return {name: torch.stack([actions[name] for actions in played]) for name in SIZES}, timestep


def test_random_numbers_do_not_depend_on_how_copies_are_split():
    whole, _ = play(make(0, 4), STEPS)
    parts = [play(make(first, 2), STEPS)[0] for first in (0, 2)]
    for name in SIZES:
        assert torch.equal(whole[name], torch.cat([part[name] for part in parts], dim=1))
    assert whole["a"].shape == (STEPS, 4, 2, 3)
    assert whole["b"].shape == (STEPS, 4, 1, 1)


def test_no_two_numbers_are_the_same_over_steps_copies_agents_and_groups():
    whole, _ = play(make(), STEPS)
    numbers = torch.cat([tensor.flatten() for tensor in whole.values()])
    # 23 bits and 1960 numbers: less than one coincidence in expectation.
    assert numbers.unique().numel() >= numbers.numel() - 3
    assert 0.0 < numbers.min() < numbers.max() < 1.0


def test_seeds_and_purposes_have_numbers_of_their_own():
    one, _ = play(make(), 3)
    for other in (play(make(seed=1), 3)[0], play(make(purpose="evaluate"), 3)[0]):
        assert not torch.equal(one["a"], other["a"])


@pytest.mark.parametrize("stop", [0, 1, 31, 32, 33])
def test_an_actor_goes_on_where_it_was_saved(stop):
    whole, _ = play(make(), STEPS)
    parts = make()
    if stop:
        play(parts, stop)
    state = {name: tensor.clone() for name, tensor in parts[0].state_dict().items()}
    envs = {name: tensor.clone() for name, tensor in parts[0].env_state_dict().items()}
    assert envs.keys() == SIZES.keys()
    assert all(tensor.shape[0] == 4 for tensor in envs.values())
    # Two ranks go on, with two copies each.
    for first in (0, 2):
        actor, environment, _ = make(first, 2)
        environment.load_env_state_dict(
            {name: tensor[first : first + 2] for name, tensor in parts[1].env_state_dict().items()}
        )
        actor.load_state_dict(state)
        actor.load_env_state_dict({name: tensor[first : first + 2] for name, tensor in envs.items()})
        after, _ = play((actor, environment, environment.current()), STEPS - stop)
        for name in SIZES:
            assert torch.equal(after[name], whole[name][stop:, first : first + 2])


def test_recurrent_states_are_handed_back_to_the_policy_that_made_them():
    parts = make()
    _, timestep = play(parts, 25)
    time = parts[1].memory["time"]
    parts[0].select_actions(timestep)
    for name, size in SIZES.items():
        state = parts[0].env_state_dict()[name]
        assert state.squeeze(-1).tolist() == [[step + 1.0] * size for step in time.tolist()]


def test_policies_without_noise_or_memory_cost_none():
    actor, _, timestep = make(policies={"a": Silent(2, 0), "b": Silent(1, 0)})
    actions = actor.select_actions(timestep)
    assert {name: tensor.shape for name, tensor in actions.items()} == {"a": (4, 2, 1), "b": (4, 1, 1)}
    assert actor.env_state_dict() == {}


def test_one_silent_policy_does_not_shift_the_numbers_of_others_between_ranks():
    def mixed():
        return {"a": Noise(2, 3), "b": Silent(1, 0)}

    whole, _ = play(make(policies=mixed()), 40)
    parts = [play(make(first, 2, policies=mixed()), 40)[0] for first in (0, 2)]
    assert torch.equal(whole["a"], torch.cat([part["a"] for part in parts], dim=1))


def test_the_adder_is_told_what_the_policies_noted_at_the_step_before():
    told = []

    class Listener(Adder):
        def add_first(self, timestep):
            told.append("first")

        def add(self, actions, extras, timestep):
            told.append((actions, {name: dict(extra) for name, extra in extras.items()}, timestep))

    actor, environment, timestep = make(adder=Listener())
    rewards = timestep.groups["a"].rewards.clone()
    actions = actor.select_actions(timestep)
    following = environment.step(actions)
    actor.observe(actions, following)
    assert told[0] == "first"
    assert told[1][0] is actions
    assert torch.equal(told[1][1]["a"]["steps"], rewards)
    assert told[1][2] is following
    actor.update()
