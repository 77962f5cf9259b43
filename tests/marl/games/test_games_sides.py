"""The sides of a game: one rule for self-play and tournaments, and teams that the user names."""

import dataclasses

import pytest
import torch

from marl.core import EnvironmentRequest
from marl.envs.factory import make_factory
from marl.errors import InputError
from marl.games.sides import Sides, read_teams, sides_are_alike
from marl.specs import AgentSpec, ArraySpec, DiscreteActions, EnvironmentSpec, group_agents

SEEN, ACTION = ArraySpec(shape=(2,)), DiscreteActions(num_actions=3)
OTHER = ArraySpec(shape=(3,))


def spec_of(sharing="spaces", **observations):
    agents = [AgentSpec(name=name, observation=seen, action=ACTION) for name, seen in observations.items()]
    return EnvironmentSpec(groups=group_agents(agents, sharing))


def sides_of(spec, teams=None):
    sides = Sides(spec, teams)
    return dict(zip(sides.names, sides.agents, strict=True))


def alone(*agents):
    return {agent: (agent,) for agent in agents}


@pytest.mark.parametrize("sharing", ["spaces", "none"])
@pytest.mark.parametrize(
    ("env", "env_kwargs", "expected"),
    [
        (
            "mpe2.simple_tag_v3",
            {},
            {"adversary": ("adversary_0", "adversary_1", "adversary_2"), "agent": ("agent_0",)},
        ),
        ("mpe2.simple_adversary_v3", {}, {"adversary": ("adversary_0",), "agent": ("agent_0", "agent_1")}),
        (
            "mpe2.simple_world_comm_v3",
            {},
            {
                "adversary": ("adversary_0", "adversary_1", "adversary_2"),
                "agent": ("agent_0", "agent_1"),
                "leadadversary": ("leadadversary_0",),
            },
        ),
        # No two names differ in a number only; Alice and Bob observe alike, Eve less.
        ("mpe2.simple_crypto_v3", {}, {"agents": ("alice_0", "bob_0"), "eve_0": ("eve_0",)}),
        ("mpe2.simple_push_v3", {}, alone("adversary_0", "agent_0")),
        ("mpe2.simple_speaker_listener_v4", {}, alone("listener_0", "speaker_0")),
        ("mpe2.simple_spread_v3", {}, alone("agent_0", "agent_1", "agent_2")),
        ("classic/tictactoe-v3", {}, alone("player_1", "player_2")),
        ("openspiel/kuhn_poker", {"players": 3}, alone("player_0", "player_1", "player_2")),
        ("envs.matrix_games:rock_paper_scissors", {}, alone("agent_0", "agent_1")),
        ("toy_match:make", {"bidders": 3}, alone("bidder_0", "bidder_1", "bidder_2")),
        ("toy_match:make", {"teams": True}, {"hare": ("hare_0", "hare_1"), "wolf": ("wolf_0", "wolf_1")}),
    ],
)
def test_sides_of_environments(env, env_kwargs, expected, sharing):
    request = EnvironmentRequest(num_envs=1, sharing=sharing, with_state=False)
    envs = make_factory(env, env_kwargs=env_kwargs)(request)
    try:
        assert sides_of(envs.spec) == expected
    finally:
        envs.close()


@pytest.mark.parametrize(
    ("observations", "expected"),
    [
        # Names come first, whether spaces are equal or not.
        (
            {"red_0": SEEN, "red_1": SEEN, "blue_0": SEEN, "blue_1": SEEN},
            {"blue": ("blue_0", "blue_1"), "red": ("red_0", "red_1")},
        ),
        ({"hunter_0": SEEN, "hunter_1": OTHER, "prey": SEEN}, {"hunter": ("hunter_0", "hunter_1"), "prey": ("prey",)}),
        # Names that make one team, or as many as there are agents, tell nothing: then spaces do.
        ({"p_0": SEEN, "p_1": OTHER, "p_2": SEEN}, {"p": ("p_0", "p_2"), "p_1": ("p_1",)}),
        ({"cat": SEEN, "dog": SEEN, "owl": OTHER}, {"agents": ("cat", "dog"), "owl": ("owl",)}),
        ({"cat": SEEN, "dog": SEEN}, alone("cat", "dog")),
        ({"0": SEEN, "1": SEEN, "2": SEEN}, alone("0", "1", "2")),
    ],
)
def test_names_then_spaces_then_every_agent_alone(observations, expected):
    assert sides_of(spec_of(**observations)) == expected
    assert sides_of(spec_of(sharing="none", **observations)) == expected


def test_returns_are_summed_by_side():
    spec = spec_of(hunter_0=SEEN, hunter_1=SEEN, prey=OTHER)
    sides = Sides(spec)
    assert sides.of_group["hunter"].tolist() == [0, 0]
    assert sides.of_group["prey"].tolist() == [1]
    assert sides.returns(torch.tensor([[1.0, 2.0, -4.0]])).tolist() == [[3.0, -4.0]]
    named = Sides(spec, {"hunter_0": "a", "prey": "a", "hunter_1": "b"})
    assert named.names == ("a", "b")
    assert named.agents == (("hunter_0", "prey"), ("hunter_1",))
    assert named.returns(torch.tensor([[1.0, 2.0, -4.0]])).tolist() == [[-3.0, 2.0]]


def test_sides_are_alike_where_agents_have_equal_spaces_in_equal_numbers():
    spec = spec_of(a_0=SEEN, a_1=SEEN, b_0=SEEN, b_1=SEEN)
    assert sides_are_alike(spec, Sides(spec))
    assert not sides_are_alike(spec, Sides(spec, {"a_0": "x", "a_1": "x", "b_0": "x", "b_1": "y"}))
    other = spec_of(a_0=SEEN, a_1=SEEN, b_0=SEEN, b_1=OTHER)
    assert not sides_are_alike(other, Sides(other))
    masked = dataclasses.replace(AgentSpec(name="b_1", observation=SEEN, action=ACTION), masked=True)
    agents = [AgentSpec(name=name, observation=SEEN, action=ACTION) for name in ("a_0", "a_1", "b_0")]
    uneven = EnvironmentSpec(groups=group_agents([*agents, masked]))
    assert not sides_are_alike(uneven, Sides(uneven))


@pytest.mark.parametrize(
    ("teams", "message"),
    [
        ({"x_0": "a", "y_0": "b", "x_1": "a", "z_0": "b"}, "--teams names 'z_0', which is no agent; did you mean"),
        ({"x_0": "a", "x_1": "b"}, "--teams leaves out y_0"),
        ({"x_0": "a", "x_1": "a", "y_0": "a"}, "nobody to play against"),
        ({}, "--teams leaves out x_0, x_1, y_0"),
    ],
)
def test_teams_that_make_no_sense_are_refused(teams, message):
    with pytest.raises(InputError, match=message) as refused:
        Sides(spec_of(x_0=SEEN, x_1=SEEN, y_0=SEEN), teams)
    assert "\n" not in str(refused.value)


def test_a_single_agent_has_nobody_to_play_against():
    with pytest.raises(InputError, match="nobody to play against"):
        Sides(spec_of(agent_0=SEEN))


def test_the_option_is_a_json_object_from_agent_to_team():
    assert read_teams(None) is None
    assert read_teams('{"adversary_0": "red", "agent_0": "blue"}') == {"adversary_0": "red", "agent_0": "blue"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("red=a,b", "--teams is not JSON"),
        ('["a", "b"]', "--teams is a JSON object from agent to team"),
        ('{"a": 1}', "--teams is a JSON object from agent to team"),
        ('{"a": ""}', "--teams is a JSON object from agent to team"),
        ('{"a": {"b": "c"}}', "--teams is a JSON object from agent to team"),
        ("3", "--teams is a JSON object from agent to team"),
        ('{"a": "x", "b": "y", "a": "y"}', "--teams names 'a' twice"),
    ],
)
def test_an_option_that_is_something_else_is_refused_in_one_line(text, message):
    with pytest.raises(InputError, match=message) as refused:
        read_teams(text)
    assert "\n" not in str(refused.value)
