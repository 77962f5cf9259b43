"""Mixtures of policies: drawn by every side for whole episodes, with the shares that they were given."""

import numpy as np
import pytest
import torch

from marl.acting.evaluation import evaluate
from marl.core import EnvironmentRequest
from marl.distributed.communicators import SerialCommunicator
from marl.errors import InputError
from marl.games.policy_players import blank_step
from marl.policy import Decision, Policy
from marl.self_play.mixture import mix_policies
from marl.specs import AgentSpec, ArraySpec, DiscreteActions, EnvironmentSpec, group_agents

KUHN = "kuhn_poker"


class Constant(Policy):
    """Always the same action."""

    def __init__(self, action):
        self.action = action

    def act(self, step, first, state, uniforms):
        return Decision(actions=torch.full(step.active.shape, self.action), extras={}, state=None)


class Counting(Policy):
    """Plays its own number plus how many steps of this episode it has seen, from 1 on."""

    def __init__(self, number):
        self.number = number

    def initial_state(self, num_envs):
        return torch.zeros(num_envs, 2, 3)

    def act(self, step, first, state, uniforms):
        state = torch.where(first.view(-1, 1, 1), torch.zeros_like(state), state) + 1
        return Decision(actions=self.number + state[..., 0].long(), extras={}, state=state)


def spec_of(*names, sharing="spaces"):
    agents = [
        AgentSpec(name=name, observation=ArraySpec(shape=(2,)), action=DiscreteActions(num_actions=9)) for name in names
    ]
    return EnvironmentSpec(groups=group_agents(agents, sharing), state=None, turn_based=False)


def act(policy, group, state, uniforms, first=True):
    """(E, A) actions and the new state, where the first number of each agent's decision is given."""
    rows = torch.tensor(uniforms).unsqueeze(-1)
    step = blank_step(group, len(rows))
    decision = policy.act(step, torch.full((len(rows),), first), state, rows)
    return decision.actions.tolist(), decision.state


def test_a_member_is_drawn_with_its_share_and_kept_until_the_next_episode():
    spec = spec_of("left", "right")
    (group,) = spec.groups
    members = [{group.name: Constant(number)} for number in range(3)]
    policy = mix_policies(spec, members, np.array([0.25, 0.5, 0.25]))[group.name]
    state = policy.initial_state(2)
    drawn, state = act(policy, group, state, [[0.2, 0.3], [0.74, 0.76]])
    assert drawn == [[0, 1], [1, 2]]
    kept, state = act(policy, group, state, [[0.9, 0.9], [0.1, 0.1]], first=False)
    assert kept == drawn
    assert act(policy, group, state, [[0.9, 0.9], [0.1, 0.1]])[0] == [[2, 2], [0, 0]]


def test_agents_of_a_team_play_as_one_member():
    spec = spec_of("red_0", "red_1", "blue_0", "blue_1")
    (group,) = spec.groups
    members = [{group.name: Constant(number)} for number in range(2)]
    policy = mix_policies(spec, members, np.array([0.5, 0.5]))[group.name]
    columns = [group.agents.index(agent) for agent in ("blue_0", "blue_1", "red_0", "red_1")]
    uniforms = torch.tensor([[0.1, 0.9, 0.9, 0.1]])[:, torch.tensor(columns).argsort()]
    ((drawn),), _ = act(policy, group, policy.initial_state(1), uniforms.tolist())
    assert [drawn[column] for column in columns] == [0, 0, 1, 1]


def test_sides_whose_agents_share_no_policy_are_refused():
    spec = spec_of("red_0", "red_1", "blue_0", "blue_1", sharing="none")
    members = [{group.name: Constant(number) for group in spec.groups} for number in range(2)]
    with pytest.raises(InputError, match="side blue"):
        mix_policies(spec, members, np.array([0.5, 0.5]))


@pytest.mark.parametrize("shares", [[1.0], [0.5, 0.6], [1.5, -0.5]])
def test_shares_are_probabilities(shares):
    spec = spec_of("left", "right")
    with pytest.raises(ValueError, match="share"):
        mix_policies(spec, [{"": Constant(0)}] * 2, np.array(shares))


def test_each_member_remembers_its_own_episode():
    spec = spec_of("left", "right")
    (group,) = spec.groups
    policy = mix_policies(spec, [{group.name: Counting(0)}, {group.name: Counting(5)}], np.array([0.5, 0.5]))[
        group.name
    ]
    drawn, state = act(policy, group, policy.initial_state(1), [[0.2, 0.8]])
    assert drawn == [[1, 6]]
    drawn, state = act(policy, group, state, [[0.8, 0.2]], first=False)
    assert drawn == [[2, 7]]
    assert act(policy, group, state, [[0.8, 0.2]])[0] == [[6, 1]]


def test_a_mixture_wins_at_kuhn_what_its_average_does_by_openspiel():
    """Of always passing and always betting; drawn anew at every decision it would win other amounts."""
    pyspiel = pytest.importorskip("pyspiel", reason="OpenSpiel is not installed (extra: games)")
    from open_spiel.python.algorithms.expected_game_score import policy_value
    from open_spiel.python.policy import TabularPolicy

    from marl.envs.openspiel.batched import make_batched_game
    from marl.envs.openspiel.exploitability import average_table

    game, factory = pyspiel.load_game(KUHN), make_batched_game(KUHN)
    shares = np.array([0.3, 0.7])
    tables = [np.tile([1.0, 0.0], (12, 1)), np.tile([0.0, 1.0], (12, 1))]

    def value(table):
        tabular = TabularPolicy(game)
        tabular.action_probability_array[...] = table
        return policy_value(game.new_initial_state(), [tabular, tabular])[0]

    exact = value(average_table(game, tables, shares))
    # By hand: equals win nothing on average; who passes loses 1 to who bets.
    assert exact == pytest.approx(0.3 * 0.7 * -1 + 0.7 * 0.3 * 1)
    spec = factory(EnvironmentRequest(num_envs=1)).spec
    members = [{group.name: Constant(action) for group in spec.groups} for action in (0, 1)]
    found = evaluate(
        mix_policies(spec, members, shares),
        spec,
        factory,
        episodes=4000,
        num_envs=500,
        seed=0,
        communicator=SerialCommunicator(),
    )
    own = found.returns[:, 0]
    assert abs(float(own.mean()) - exact) < 4 * float(own.std()) / len(own) ** 0.5
    # Who passed first does not call later, and so loses 1.
    third = found.lengths == 3
    assert bool((own[third] == -1).all())
    assert abs(float(third.double().mean()) - 0.3 * 0.7) < 4 * (0.21 * 0.79 / len(own)) ** 0.5
