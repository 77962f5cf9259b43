"""Batched MPE by name."""

import pytest

from marl.envs.mpe import bench_step, make_batched
from marl.errors import InputError


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("mpe2.simple_spred_v3", {}, "did you mean 'mpe2.simple_spread_v3'"),
        ("mpe2.simple_formation_v1", {}, "there are mpe2.simple_adversary_v3, "),
        ("mpe2.simple_spread_v3", {"n": 3}, "takes no argument n; it takes max_cycles, .* N, "),
        ("mpe2.simple_spread_v3", {"N": 0}, "N is a whole number of at least 1, not 0"),
        ("mpe2.simple_spread_v3", {"N": 2.5}, "N is a whole number"),
        ("mpe2.simple_spread_v3", {"local_ratio": 1.5}, "local_ratio is a proportion"),
        ("mpe2.simple_reference_v3", {"local_ratio": -0.1}, "local_ratio is a proportion"),
        ("mpe2.simple_tag_v3", {"num_agent_neighbors": 0}, "num_agent_neighbors is a whole number"),
        ("mpe2.simple_world_comm_v3", {"num_food": 0}, "num_food is a whole number of at least 1"),
        ("mpe2.simple_crypto_v3", {"max_cycles": 0}, "max_cycles is a whole number of at least 1"),
    ],
)
def test_wrong_names_and_arguments_get_one_clear_line(name, arguments, message):
    with pytest.raises(InputError, match=message) as caught:
        make_batched(name, arguments)
    assert "\n" not in str(caught.value)


def test_the_benchmark_counts_steps_of_all_copies():
    assert bench_step(64, 0.02, compile=False) > 64
