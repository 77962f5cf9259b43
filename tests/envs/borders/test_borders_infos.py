import numpy as np
import pytest

from marl.envs.borders.infos import numbers_in


def test_numbers_are_means_over_the_agents_that_have_them():
    infos = {
        "a": {
            "battle_won": True,
            "score": np.float32(2),
            "stats": {"kills": 3, "deep": {"er": 1}},
            "zero": np.array(4),
        },
        "b": {"score": 4, "action_mask": np.ones(2), "note": "x", "none": None, "bad": float("nan"), 7: 1},
        "c": None,
    }
    assert numbers_in(infos) == {"battle_won": 1.0, "score": 3.0, "stats/kills": 3.0, "zero": 4.0, "7": 1.0}


@pytest.mark.parametrize("infos", [None, [], "text", {}, {"a": None}, {"a": {"x": 10**400}}])
def test_what_is_no_number_is_passed_over(infos):
    assert numbers_in(infos) == {}
    assert len(numbers_in({"a": {str(number): number for number in range(1000)}})) == 64
