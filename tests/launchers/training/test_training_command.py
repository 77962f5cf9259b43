"""Wrong input: one line, exit code 2, nothing half-written."""

import json

import pytest
from command_line import SHORT, SPREAD

from marl.launchers.run.recipes import RECIPES

RECIPE = RECIPES["mappo", SPREAD].__name__


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (("mapo", SPREAD), "there is no algorithm 'mapo'; did you mean 'mappo'?"),
        (("mappo", "mpe2.simple_spred_v3"), "did you mean 'mpe2.simple_spread_v3'?"),
        (("mappo", "classic/connect_for-v3"), "did you mean 'classic/connect_four-v3'?"),
        (("mappo", "toy_game:mke"), "toy_game has no callable 'mke'; did you mean 'make'?"),
        (("mappo", "no_such_module:make"), "there is no environment 'no_such_module:make'"),
        (("mappo",), "which environment?"),
        (("--steps", "5"), "marl train ALGORITHM ENV comes first"),
        (("mappo", SPREAD, "--algorithm.learning-rat", "1"), "did you mean --algorithm.learning-rate?"),
        (("mappo", SPREAD, "--learning-rate", "1"), "did you mean --algorithm.learning-rate?"),
        (("mappo", SPREAD, "--algorithm.learning-rate", "fast"), "--algorithm.learning-rate"),
        (("mappo", SPREAD, "--algorithm.rollout-length", "0"), "rollout"),
        (("mappo", SPREAD, "--env-kwargs", "{N: 3}"), "--env-kwargs takes pairs or a JSON object"),
        (("mappo", SPREAD, "--env-kwargs", "[3]"), "--env-kwargs takes pairs or a JSON object"),
        (("mappo", SPREAD, "--env-kwargs", '{"colour": 3}'), "takes no argument colour"),
        (("mappo", SPREAD, "--steps", "0"), "--steps must be at least 1, got 0"),
        (("mappo", SPREAD, "--seed", "-1"), "--seed cannot be negative, got -1"),
        (("mappo", SPREAD, "--evaluation-max-steps", "0"), "--evaluation-max-steps must be at least 1, got 0"),
        (("mappo", SPREAD, "--checkpoint-every", "0"), "--checkpoint-every must be at least 1"),
        (("mappo", SPREAD, "--keep-checkpoints", "0"), "--keep-checkpoints must be at least 1"),
        (("mappo", SPREAD, "--ranks", "0"), "--ranks must be at least 1, got 0"),
        (("mappo", SPREAD, "--ranks", "two"), "--ranks"),
        (("mappo", SPREAD, "--recipe", RECIPE[:-1]), f"there is no recipe {RECIPE[:-1]!r}; did you mean {RECIPE!r}?"),
        (("mappo", SPREAD, "--backend", "fast"), "pettingzoo"),
        (("mappo", "classic/tictactoe-v3", "--backend", "batched"), "has no batched version"),
        (("mappo", "toy_game:make", "--preprocessing.grey"), "cannot be made grey"),
        (("ippo", SPREAD, "--algorithm.centralized-critic"), "is fixed by the algorithm's name"),
        (("mappo", "toy_game:make", "--env-kwargs", '{"fault": "text"}'), "observation space of left"),
        (("mappo", "toy_game:make", "--env-kwargs", '{"fault": "graph"}'), "action space of left is not supported"),
    ],
)
def test_wrong_arguments_write_nothing(refused, tmp_path, argv, line):
    assert line in refused("train", *argv, "--out", tmp_path / "deep" / "run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("fault", "rule"),
    [
        ("shape", "(the observation has the shape of its space) at agent right"),
        ("nan", "(observations are finite) at agent right"),
        ("missing", "(observations has an entry for every agent that is alive) at agent right"),
        ("reward", "(a reward is a number) at agent right"),
    ],
)
def test_an_environment_that_breaks_the_api_is_told_which_rule_and_which_agent(refused, tmp_path, fault, rule):
    argv = ("--env-kwargs", json.dumps({"fault": fault}), "--out", tmp_path / "run")
    assert rule in refused("train", "ippo", "toy_game:make", *SHORT, *argv)
    assert list(tmp_path.iterdir()) == []


def test_an_environment_that_raises_ends_the_run_with_its_traceback(marl, tmp_path):
    argv = ("--env-kwargs", '{"fault": "raises"}', "--env-failures", 0, "--out", tmp_path / "run")
    done = marl("train", "ippo", "toy_game:make", *SHORT, *argv)
    assert done.code == 1
    assert done.stderr.splitlines()[-1] == "RuntimeError: the game fell over"


def test_an_environment_that_raises_in_every_episode_is_told_in_one_line(marl, tmp_path):
    argv = ("--env-kwargs", '{"fault": "raises"}', "--env-failures", 2, "--out", tmp_path / "run")
    done = marl("train", "ippo", "toy_game:make", *SHORT, *argv)
    assert done.code == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("marl: copy 0 of the environment failed")]
    assert "3 episodes in a row, the last time with RuntimeError: the game fell over" in line
    assert list(tmp_path.iterdir()) == []


def test_a_resumed_run_goes_through_the_compiler_only_if_it_did_before(tmp_path, marl):
    argv = ("train", "mappo", "mpe2.simple_spread_v3", "--num-envs", 2, "--evaluation-episodes", 0, "--out", tmp_path)
    assert marl(*argv, "--steps", 50).code == 0
    assert json.loads((tmp_path / "config.json").read_text())["compile"] == "no"
    # Long enough for the compiler, but the run began without.
    done = marl(*argv, "--steps", 600_000, "--resume", "--compile", "yes")
    assert done.code == 2
    assert "compile" in done.stderr


def test_what_is_not_written_for_the_compiler_is_refused(refused):
    argv = ("train", "mappo", "mpe2.simple_spread_v3", "--compile", "yes", "--algorithm.recurrent")
    assert "is not written for torch's compiler with these settings" in refused(*argv)
    league = ("league", "mappo", "classic/tictactoe-v3", "--compile", "yes")
    assert "does not go through torch's compiler" in refused(*league)
