import json

import pytest

from marl.errors import InputError
from marl.launchers.run.catalog import ALGORITHMS
from marl.launchers.run.recipes import BATCHED_RECIPES, RECIPES, find_recipe
from marl.launchers.run.settings import Settings, make_experiment_config

SPREAD = "mpe2.simple_spread_v3"


@pytest.mark.parametrize(
    ("pair", "recipe"), [*RECIPES.items(), *BATCHED_RECIPES.items()], ids=lambda part: getattr(part, "__name__", None)
)
def test_every_recipe_gives_an_experiment_of_its_pair(pair, recipe):
    algorithm, env = pair
    defaults = Settings(algorithm=ALGORITHMS[algorithm].default_config())
    tuned = recipe(defaults)
    assert tuned != defaults
    make_experiment_config(algorithm, env, tuned)


def test_recipes_names_are_their_own():
    by_name = {}
    for recipe in (*RECIPES.values(), *BATCHED_RECIPES.values()):
        assert by_name.setdefault(recipe.__name__, recipe) is recipe


def test_recipe_is_the_pairs_own_or_the_named_one_or_none():
    own = RECIPES["mappo", SPREAD]
    assert find_recipe("mappo", SPREAD, None) is own
    assert find_recipe("mappo", SPREAD, "none") is None
    assert find_recipe("mappo", "classic/tictactoe-v3", None) is None
    assert find_recipe("mappo", "classic/tictactoe-v3", own.__name__) is own
    assert find_recipe("mappo", SPREAD, None, "pettingzoo") is own
    assert find_recipe("mappo", SPREAD, None, "batched") is BATCHED_RECIPES["mappo", SPREAD]
    assert find_recipe("vdn", SPREAD, None, "batched") is RECIPES["vdn", SPREAD]
    with pytest.raises(InputError, match=f"did you mean '{own.__name__}'"):
        find_recipe("mappo", SPREAD, own.__name__[:-1])


def test_first_line_and_config_name_the_recipe_and_flags_override_it(marl, tmp_path):
    argv = ("--steps", 8, "--num-envs", 4, "--evaluation-episodes", 0, "--algorithm.rollout-length", 2)
    tuned = marl("train", "mappo", SPREAD, *argv, "--algorithm.discount", "0.5", "--out", tmp_path / "tuned")
    plain = marl("train", "mappo", SPREAD, *argv, "--recipe", "none", "--out", tmp_path / "plain")
    assert "recipe ppo_mpe" in tuned.stdout.splitlines()[0]
    assert "no recipe" in plain.stdout.splitlines()[0]
    configs = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("tuned", "plain")]
    assert [config["recipe"] for config in configs] == ["ppo_mpe", None]
    default = ALGORITHMS["mappo"].default_config().discount
    assert [config["algorithm"]["discount"] for config in configs] == [0.5, default]
