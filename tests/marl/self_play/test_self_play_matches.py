"""Matches: games do not depend on ranks, end at the step limit, and random players play by the rules."""

import dataclasses

import pytest
import torch
from probes import anything

from marl.core import EnvironmentRequest
from marl.distributed.communicators import SerialCommunicator
from marl.policy import Decision, Policy
from marl.self_play.matches import play_matches
from marl.self_play.opponents import RANDOM
from marl.specs import AgentSpec, ArraySpec, ContinuousActions, DiscreteActions
from marl.testing.fake_environment import FakeVectorEnvironment

THREE = DiscreteActions(num_actions=3)
SEEN = ArraySpec(shape=(2,))
PAIR = (
    AgentSpec(name="p_0", observation=SEEN, action=THREE),
    AgentSpec(name="p_1", observation=SEEN, action=THREE),
)
IN_TURNS = anything(*PAIR, turns=True)


def spec_of(game):
    return game(EnvironmentRequest(num_envs=1)).spec


class Constant(Policy):
    """Always the same action."""

    def __init__(self, action):
        self.action = action

    def act(self, step, first, state, uniforms):
        return Decision(actions=torch.full(step.active.shape, self.action), extras={}, state=None)


def games_of(seating, communicator, **settings):
    spec = spec_of(IN_TURNS)
    policies = {player: {"p": Constant(player)} for player in (0, 1, 2)}
    return play_matches(
        seating,
        policies.__getitem__,
        IN_TURNS,
        num_envs=5,
        seed=0,
        purpose="games",
        communicator=communicator,
        template={group.name: Constant(0) for group in spec.groups},
        **settings,
    )


class Part(SerialCommunicator):
    """One of several ranks, whose sums are taken by hand."""

    def __init__(self, rank, size):
        self.rank, self.size = rank, size


def test_games_do_not_depend_on_ranks():
    seating = torch.randint(0, 3, (13, 2), generator=torch.Generator().manual_seed(0))
    seating[3] = RANDOM
    returns, lengths, stopped = games_of(seating, SerialCommunicator())
    assert returns.shape == (13, 2)
    assert bool((lengths > 0).all())
    for size in (2, 3, 7):
        parts = [games_of(seating, Part(rank, size)) for rank in range(size)]
        assert torch.equal(sum(part[0] for part in parts), returns)
        assert torch.equal(sum(part[1] for part in parts), lengths)
    assert not bool(stopped.any())


def test_games_that_do_not_end_are_draws_and_counted():
    seating = torch.randint(0, 3, (13, 2), generator=torch.Generator().manual_seed(0))
    whole, lengths, _ = games_of(seating, SerialCommunicator())
    limit = int(lengths.sort().values[-2])
    returns, cut, stopped = games_of(seating, SerialCommunicator(), max_steps=limit)
    late = lengths > limit
    # Whoever ends at the limit has ended; the others of an environment that is stuck are draws as well.
    assert bool(stopped[late].all())
    assert torch.equal(returns[~stopped], whole[~stopped])
    assert torch.equal(cut[~stopped], lengths[~stopped])
    assert 0 < int(stopped.sum()) < 13
    assert not bool(returns[stopped].any())
    _, cut, stopped = games_of(seating, SerialCommunicator(), max_steps=1)
    assert bool(stopped[lengths > 1].all())
    assert bool((cut[stopped] == 1).all())


def test_an_environment_that_has_played_its_games_may_reach_the_limit_again():
    seating = torch.randint(0, 3, (61, 2), generator=torch.Generator().manual_seed(0))
    whole, lengths, _ = games_of(seating, SerialCommunicator())
    for limit in lengths.unique().int().tolist():
        returns, cut, stopped = games_of(seating, SerialCommunicator(), max_steps=limit)
        assert torch.equal(returns[~stopped], whole[~stopped])
        assert torch.equal(cut[~stopped], lengths[~stopped])
        assert bool(stopped[lengths > limit].all())


def test_random_players_take_legal_actions_only():
    actions = ContinuousActions(low=(-1.0, -1.0), high=(1.0, 1.0))
    agents = (
        AgentSpec(name="p_0", observation=SEEN, action=THREE, masked=True),
        AgentSpec(name="p_1", observation=SEEN, action=actions),
    )

    def game(request):
        return FakeVectorEnvironment(
            dataclasses.replace(spec_of(anything(*agents))), num_envs=request.num_envs, first_env=request.first_env
        )

    spec = spec_of(anything(*agents))
    returns, _, _ = play_matches(
        torch.full((6, 2), RANDOM),
        lambda player: pytest.fail("nobody else plays"),
        game,
        num_envs=3,
        seed=0,
        purpose="games",
        communicator=SerialCommunicator(),
        template={group.name: Constant(0) for group in spec.groups},
    )
    assert bool(torch.isfinite(returns).all())
