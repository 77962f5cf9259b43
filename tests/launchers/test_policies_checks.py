"""A loaded policy checks what it is given as training does."""

import json

import numpy as np
import pytest
from reporting_games import Paid

from marl.errors import InputError
from marl.launchers.policies import load_policy

TINY = ("--num-envs", 4, "--recipe", "none", "--evaluation-episodes", 0, "--compile", "no")
ROLLOUT = ("--algorithm.rollout-length", 20)
SEEN = np.zeros(4, np.float32)


@pytest.fixture
def trained(marl, tmp_path):
    def train(*argv, steps=160, **arguments):
        game = {"names": ["a", "b"], **arguments}
        options = ("--steps", steps, "--env-kwargs", json.dumps(game), "--out", tmp_path / "run")
        done = marl("train", "ippo", "reporting_games:paid", *TINY, *ROLLOUT, *options, *argv)
        assert done.code == 0, done
        return tmp_path / "run"

    return train


def returned(player, game, *, by_argument=False):
    player.reset()
    observations, infos = game.reset()
    total = 0.0
    while game.agents:
        masks = {agent: info["action_mask"] for agent, info in infos.items()} if by_argument else None
        actions = player.act(observations, action_masks=masks) if by_argument else player.act(observations, infos)
        observations, rewards, _, _, infos = game.step(actions)
        total += sum(rewards.values())
    return total


def test_masks_of_infos_are_kept_to_and_missed(trained):
    player = load_policy(trained(masks=True))
    game = Paid(["a", "b"], masks=True)
    assert returned(player, game) == returned(player, game, by_argument=True) == 15.0
    for call in ((), ({},), ({"a": {}, "b": None},)):
        with pytest.raises(InputError, match=r"agent 'a' had action masks in training and has none here"):
            player.act({"a": SEEN, "b": SEEN}, *call)
    for mask, reason in (([1, 0], "has 2 entries for 3 actions"), ([0, 0, 0], "all zero")):
        with pytest.raises(InputError, match=reason):
            player.act({"a": SEEN}, action_masks={"a": mask})
    assert player.act({"a": SEEN}, action_masks={"a": [0, 0, 1]}) == {"a": 2}


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        (0.0, r"its shape is \(\), and should be \(4,\)"),
        (np.zeros(3), r"its shape is \(3,\), and should be \(4,\)"),
        (np.zeros((1, 4)), r"its shape is \(1, 4\)"),
        (np.full(4, np.nan), "NaN or infinity"),
        (np.array([0, 0, 0, np.inf]), "NaN or infinity"),
        (["x"] * 4, "dtype"),
        (None, "shape"),
    ],
)
def test_observations_that_are_none_are_refused_in_one_line(trained, seen, reason):
    player = load_policy(trained())
    before = player.act({"a": SEEN})
    with pytest.raises(InputError, match=reason) as refusal:
        player.act({"a": SEEN, "b": seen})
    assert "agent 'b'" in str(refusal.value)
    assert "\n" not in str(refusal.value)
    # A refused call leaves no trace.
    assert player.act({"a": SEEN}) == before
    with pytest.raises(InputError, match="without action masks"):
        player.act({"a": SEEN}, action_masks={"a": [1, 1, 1]})


def test_actions_are_those_that_the_space_contains(trained):
    player = load_policy(trained(starts=[0, 5]))
    game = Paid(["a", "b"], starts=[0, 5])
    for _ in range(3):
        actions = player.act({"a": SEEN, "b": SEEN})
        assert all(game.action_space(agent).contains(action) for agent, action in actions.items())


def test_agents_keep_the_names_that_their_environment_gives_them(trained):
    player = load_policy(trained(names=["0", "('red', 0)"]))
    assert player.act({0: SEEN, ("red", 0): SEEN}).keys() == {0, ("red", 0)}
    with pytest.raises(InputError, match="knows no agent 1"):
        player.act({1: SEEN})


def test_samples_are_drawn_where_they_are_asked_for(trained):
    run = trained(steps=80)

    def choices(**settings):
        player = load_policy(run, **settings)
        return [player.act({"a": SEEN, "b": SEEN})["a"] for _ in range(40)]

    assert len(set(choices())) == 1
    drawn = choices(evaluation_policy="sampled")
    assert len(set(drawn)) == 3
    assert drawn == choices(evaluation_policy="sampled") != choices(evaluation_policy="sampled", seed=1)


def test_recurrent_players_see_what_others_saw_last_as_in_training(trained):
    player = load_policy(trained("--algorithm.recurrent"))
    together = [player.act({"a": SEEN + step, "b": SEEN}) for step in range(3)]
    player.reset()
    player.act({"a": SEEN, "b": SEEN})
    # Agent b is not asked again, and is taken to see what it saw.
    alone = [player.act({"a": SEEN + step})["a"] for step in (1, 2)]
    assert alone == [actions["a"] for actions in together[1:]]
    state = player._actor._states["agents"]
    player.reset()
    for step in range(3):
        player.act({"a": SEEN + step, "b": SEEN})
    assert np.allclose(state, player._actor._states["agents"])
