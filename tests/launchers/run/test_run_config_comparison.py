import pytest

from marl.errors import InputError
from marl.launchers.run.config_comparison import compare_configs, refuse_other_config
from marl.launchers.run.run_directory import RunDirectory

CONFIG = {"algorithm": "mappo", "seed": 1, "settings": {"learning_rate": 7e-4, "hidden_sizes": [64, 64]}, "extra": {}}


def test_equal_configurations_have_no_differences():
    saved = {**CONFIG, "run_id": "x"}
    new = {**CONFIG, "settings": {"learning_rate": 7e-4, "hidden_sizes": (64, 64)}}
    assert compare_configs(saved, new) == []


def test_each_difference_names_field_and_values():
    new = {
        "algorithm": "mappo",
        "seed": 2,
        "settings": {"learning_rate": 1e-3, "hidden_sizes": [64], "recurrent": True},
        "extra": {},
    }
    assert [str(difference) for difference in compare_configs(CONFIG, new)] == [
        "seed was 1, now 2",
        "settings.hidden_sizes was [64, 64], now [64]",
        "settings.learning_rate was 0.0007, now 0.001",
        "settings.recurrent was not there, now true",
    ]
    assert compare_configs(CONFIG, new, ignore={"seed", "settings"}) == []
    assert len(compare_configs(CONFIG, new, ignore={"sett"})) == 4


def test_true_is_not_one_and_null_is_not_missing():
    assert len(compare_configs({"a": 1}, {"a": True})) == 1
    assert compare_configs({"a": 1}, {"a": 1.0}) == []
    assert [str(d) for d in compare_configs({"a": None}, {})] == ["a was null, now not there"]


def test_resuming_with_another_configuration_says_what_differs(tmp_path):
    run = RunDirectory.create(tmp_path / "a", CONFIG)
    refuse_other_config(run, {**CONFIG, "steps": 5}, ignore={"steps"})
    with pytest.raises(InputError, match=r"seed was 1, now 2; .*another --out") as raised:
        refuse_other_config(run, {**CONFIG, "seed": 2})
    assert "\n" not in str(raised.value)
