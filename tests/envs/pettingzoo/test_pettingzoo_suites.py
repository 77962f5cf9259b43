import os

os.environ.setdefault("SDL_VIDEODRIVER", "dummy")

import numpy as np
import pytest
import torch

from marl.acting.random_actions import RandomActions
from marl.core import EnvironmentRequest
from marl.envs.factory import make_constructor, make_factory
from marl.envs.preprocessing import Preprocessing
from marl.specs import ArraySpec, ContinuousActions, DiscreteActions
from marl.testing.environment_checks import check_determinism, check_environment, check_independence, check_timesteps

NEEDS = {"classic": "rlcard", "butterfly": "pymunk", "sisl": "pygame", "openspiel": "pyspiel"}


@pytest.mark.parametrize(
    ("name", "env_kwargs"),
    [
        ("mpe2.simple_spread_v3", {}),
        ("mpe2.simple_spread_v3", {"continuous_actions": True, "max_cycles": 7}),
        ("mpe2.simple_speaker_listener_v4", {}),
        ("mpe2.simple_tag_v3", {}),
        ("classic/tictactoe-v3", {}),
        ("classic/connect_four-v3", {}),
        ("classic/leduc_holdem-v4", {}),
        ("classic/rps-v2", {}),
        ("openspiel/kuhn_poker", {}),
        ("openspiel/leduc_poker", {"players": 3}),
        ("sisl/pursuit-v5", {"max_cycles": 9, "n_pursuers": 3}),
    ],
)
def test_real_environments_keep_all_promises(name, env_kwargs):
    if needed := NEEDS.get(name.partition("/")[0]):
        pytest.importorskip(needed)
    check_environment(make_factory(name, env_kwargs=env_kwargs), steps=24)


def test_spread_is_stepped_as_it_is():
    from mpe2 import simple_spread_v3

    environment = make_factory("mpe2.simple_spread_v3")(EnvironmentRequest(num_envs=2, seed=9))
    choose = RandomActions(environment.spec, num_envs=2)
    from marl.random_streams import derive_int

    plain = simple_spread_v3.parallel_env()
    timestep = environment.reset()
    episode = 0
    for step in range(60):
        if step % 25 == 0:
            observed, _ = plain.reset(seed=derive_int(9, "train/environment", 1, episode))
            episode += 1
        for index, agent in enumerate(plain.possible_agents):
            assert timestep.groups["agent"].observations[1, index].tolist() == observed[agent].tolist()
        assert timestep.state[1].tolist() == plain.state().tolist()
        actions = choose(timestep)
        timestep = environment.step(actions)
        chosen = dict(zip(plain.possible_agents, actions["agent"][1].tolist(), strict=True))
        observed, rewards, _, truncated, _ = plain.step(chosen)
        paid = torch.tensor([rewards[agent] for agent in plain.possible_agents])
        assert torch.equal(timestep.groups["agent"].rewards[1], paid)
        assert timestep.groups["agent"].truncated[1].tolist() == list(truncated.values())
        if timestep.final is not None:
            last = timestep.final.groups["agent"].observations[1]
            assert last.tolist() == [observed[agent].tolist() for agent in plain.possible_agents]


def test_speaker_and_listener_are_groups_of_their_own():
    spec = make_factory("mpe2.simple_speaker_listener_v4")(EnvironmentRequest(num_envs=1)).spec
    assert [(group.name, group.observation.shape) for group in spec.groups] == [
        ("listener_0", (11,)),
        ("speaker_0", (3,)),
    ]
    assert [group.action for group in spec.groups] == [DiscreteActions(num_actions=5), DiscreteActions(num_actions=3)]


def test_knights_and_archers_die_one_by_one():
    pytest.importorskip("pymunk")
    factory = make_factory("butterfly/knights_archers_zombies-v11", env_kwargs={"line_death": True, "max_cycles": 100})
    environment = factory(EnvironmentRequest(num_envs=4))
    choose = RandomActions(environment.spec, num_envs=4)
    timestep = environment.reset()
    partial = ended = 0
    for _ in range(300):
        timestep = environment.step(choose(timestep))
        active = timestep.groups["agents"].active
        partial += int((active.any(-1) & ~active.all(-1)).sum())
        ended += 0 if timestep.final is None else len(timestep.final.envs)
        if partial and ended:
            break
    assert partial > 0
    assert ended > 0
    # Its seeded reset does not forget the episode before, so it is not held to exact resuming (marl.envs.conformance).
    check_timesteps(factory, steps=30)
    check_determinism(factory, steps=30)
    check_independence(factory, steps=30)


def test_pistonball_is_seen_grey_small_and_stacked():
    pytest.importorskip("pymunk")
    factory = make_factory(
        "butterfly/pistonball-v6",
        env_kwargs={"n_pistons": 6, "max_cycles": 5},
        preprocessing=Preprocessing(grey=True, resize=(20, 12), frame_stack=3),
    )
    environment = factory(EnvironmentRequest(num_envs=2))
    (group,) = environment.spec.groups
    assert group.observation == ArraySpec(shape=(20, 12, 3), dtype=torch.uint8)
    assert group.action == ContinuousActions(low=(-1.0,), high=(1.0,))
    assert environment.spec.state == ArraySpec(shape=(20, 12, 3), dtype=torch.uint8)
    timestep = environment.reset()
    observations = timestep.groups[group.name].observations
    # All frames of the first stack are the first frame.
    assert torch.equal(observations[..., 0], observations[..., 2])
    for _ in range(12):
        before = timestep.groups[group.name].observations.clone()
        timestep = environment.step({group.name: torch.ones(2, 6, 1)})
        going = ~timestep.first
        assert torch.equal(timestep.groups[group.name].observations[going][..., :2], before[going][..., 1:])
    assert timestep.state.float().std() > 0


@pytest.mark.parametrize(("game", "longest"), [("kuhn_poker", 3), ("leduc_poker", 6)])
def test_games_of_openspiel_are_played_to_their_end(game, longest):
    pytest.importorskip("pyspiel", reason="OpenSpiel is not installed")
    environment = make_constructor(f"openspiel/{game}")()
    lengths = set()
    for seed in range(60):
        environment.reset(seed=seed)
        random = np.random.default_rng(seed)
        moves = 0
        while True:
            agent = environment.agent_selection
            assert not any(environment.truncations.values())
            if environment.terminations[agent]:
                break
            legal = environment.infos[agent]["action_mask"]
            environment.step(int(random.choice(np.flatnonzero(legal))))
            moves += 1
        assert sum(environment.game_state.returns()) == 0
        lengths.add(moves)
    # From the shortest game up; three deals and six moves are more than OpenSpiel's longest Leduc game has moves.
    assert min(lengths) == 2
    assert max(lengths) >= longest
