"""Specs, and how agents are put into groups."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from marl.errors import InputError
from marl.specs import (
    AgentSpec,
    ArraySpec,
    ContinuousActions,
    DiscreteActions,
    EnvironmentSpec,
    GroupSpec,
    MultiDiscreteActions,
    SpecError,
    group_agents,
)


def agent(name, size=4, actions=5, masked=False):
    return AgentSpec(
        name=name,
        observation=ArraySpec(shape=(size,)),
        action=DiscreteActions(num_actions=actions),
        masked=masked,
    )


def grouping(agents, sharing="spaces"):
    return {group.name: group.agents for group in group_agents(agents, sharing)}


def test_agents_with_equal_spaces_share_by_default():
    agents = [agent("agent_1"), agent("adversary_0", size=3), agent("agent_0")]
    assert grouping(agents) == {"adversary_0": ("adversary_0",), "agent": ("agent_0", "agent_1")}


def test_masked_and_unmasked_agents_do_not_share():
    assert grouping([agent("a", masked=True), agent("b")]) == {"a": ("a",), "b": ("b",)}


def test_without_sharing_every_agent_is_its_own_group():
    assert grouping([agent("b"), agent("a")], "none") == {"a": ("a",), "b": ("b",)}


def test_all_agents_share_one_group():
    assert grouping([agent("left"), agent("right")], "all") == {"agents": ("left", "right")}


def test_sharing_among_all_refuses_different_spaces_naming_the_agents():
    with pytest.raises(SpecError, match="a and b cannot share a policy"):
        group_agents([agent("b", actions=3), agent("a")], "all")


def test_a_map_names_the_groups():
    agents = [agent("a"), agent("b"), agent("c", size=9)]
    assert grouping(agents, {"a": "z", "b": "y", "c": "x"}) == {"x": ("c",), "y": ("b",), "z": ("a",)}
    assert grouping(agents, {"a": "team", "b": "team", "c": "x"}) == {"team": ("a", "b"), "x": ("c",)}


def test_a_map_must_name_every_agent_and_no_other():
    with pytest.raises(SpecError, match="sharing leaves out b; every agent has a group"):
        group_agents([agent("a"), agent("b")], {"a": "x"})
    with pytest.raises(SpecError, match="names c, but the agents are a"):
        group_agents([agent("a")], {"a": "x", "c": "x"})


def test_unknown_sharing_is_the_users_mistake():
    with pytest.raises(InputError, match="sharing is one of"):
        group_agents([agent("a")], "some")


@given(
    st.lists(
        st.tuples(st.text("ab_01", min_size=1, max_size=4), st.integers(1, 3)), min_size=1, unique_by=lambda a: a[0]
    )
)
def test_grouping_is_a_partition_in_order_whatever_the_names(agents):
    specs = [agent(name, size=size) for name, size in agents]
    groups = group_agents(specs)
    EnvironmentSpec(groups=groups)
    assert sorted(name for group in groups for name in group.agents) == sorted(name for name, _ in agents)
    assert groups == group_agents(specs[::-1])


def test_array_specs_know_their_size_and_what_is_an_image():
    assert ArraySpec(shape=(2, 3, 4)).size == 24
    assert ArraySpec(shape=()).size == 1
    assert ArraySpec(shape=(84, 84, 3), dtype=torch.uint8).is_image
    assert not ArraySpec(shape=(84,)).is_image


def test_action_specs_describe_their_tensors():
    assert DiscreteActions(num_actions=5).array == ArraySpec(shape=(), dtype=torch.int64)
    assert DiscreteActions(num_actions=5).mask_size == 5
    assert MultiDiscreteActions(nvec=(2, 3)).array == ArraySpec(shape=(2,), dtype=torch.int64)
    assert MultiDiscreteActions(nvec=(2, 3)).mask_size == 5
    assert ContinuousActions(low=(-1.0, 0.0), high=(1.0, 2.0)).array == ArraySpec(shape=(2,))


def test_an_environment_spec_finds_its_groups_and_agents():
    spec = EnvironmentSpec(groups=group_agents([agent("b", size=2), agent("a_1"), agent("a_0")]))
    assert spec.agents == ("a_0", "a_1", "b")
    assert spec.group("a").size == 2
    assert spec.group("b").observation.shape == (2,)


def test_groups_out_of_order_or_twice_are_refused():
    groups = group_agents([agent("a"), agent("b", size=2)])
    with pytest.raises(SpecError, match="sorted"):
        EnvironmentSpec(groups=groups[::-1])
    with pytest.raises(SpecError, match="distinct"):
        EnvironmentSpec(groups=(groups[0], groups[0]))


def test_groups_of_one_kind_have_distinct_names_even_if_prefixes_collide():
    agents = [agent("x_0"), agent("x_1"), agent("x_2", size=2), agent("x_3", size=2)]
    names = [group.name for group in group_agents(agents)]
    assert names == ["x", "x_2"]
    assert isinstance(group_agents(agents)[0], GroupSpec)
