"""Numbers that make no sense are refused with the option's name."""

import math
from types import SimpleNamespace

import pytest

from marl.errors import InputError
from marl.learning.config_checks import require_above, require_at_least, require_unit_interval, require_widths


@pytest.mark.parametrize("value", [1, 2.5, None])
def test_what_makes_sense_passes(value):
    config = SimpleNamespace(n_step=value, widths=(1,), share=1.0)
    require_at_least(1, config, "n_step")
    require_above(0, config, "n_step")
    require_unit_interval(config, "share")
    require_widths(config, "widths")


@pytest.mark.parametrize("value", [0, -1.0, math.nan, math.inf])
def test_a_number_that_is_too_small_or_none_at_all_is_refused(value):
    config = SimpleNamespace(n_step=value)
    with pytest.raises(InputError, match=r"--algorithm\.n-step must be at least 1, not"):
        require_at_least(1, config, "n_step")
    with pytest.raises(InputError, match=r"--algorithm\.n-step must be a number above 0, not"):
        require_above(0, config, "n_step")


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan])
def test_a_share_lies_between_0_and_1(value):
    with pytest.raises(InputError, match=r"--algorithm\.share lies between 0 and 1"):
        require_unit_interval(SimpleNamespace(share=value), "share")


@pytest.mark.parametrize("value", [(), (0,), (64, -1)])
def test_layers_have_widths(value):
    with pytest.raises(InputError, match=r"--algorithm\.widths needs at least one width"):
        require_widths(SimpleNamespace(widths=value), "widths")
