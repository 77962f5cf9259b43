import subprocess
import sys

import pytest

from marl.envs.suites import FORAGING, OPENSPIEL, SUITES, WAREHOUSE, describe_names, split_name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("openspiel/kuhn_poker", (OPENSPIEL, "kuhn_poker")),
        ("lbf/Foraging-8x8-2p-2f-coop-v3", (FORAGING, "Foraging-8x8-2p-2f-coop-v3")),
        ("rware/rware-tiny-2ag-v2", (WAREHOUSE, "rware-tiny-2ag-v2")),
        ("classic/connect_four-v3", None),
        ("mpe2.simple_spread_v3", None),
        ("openspiel/", None),
        ("openspiel", None),
        ("", None),
    ],
)
def test_a_prefix_says_the_suite(name, expected):
    assert split_name(name) == expected
    if expected is not None:
        suite, identifier = expected
        assert suite.name(identifier) == name


def test_the_help_names_every_form_in_one_line():
    assert describe_names() == (
        "ENV is package.module (mpe2.simple_spread_v3), a PettingZoo id (classic/connect_four-v3), openspiel/GAME, "
        "lbf/ID, rware/ID, or package.module:callable."
    )


def test_prefixes_and_packages_belong_to_one_suite_each():
    prefixes = [suite.prefix for suite in SUITES if suite.prefix is not None]
    packages = [package for suite in SUITES for package in suite.packages]
    assert len(set(prefixes)) == len(prefixes)
    assert len(set(packages)) == len(packages)


def test_the_table_loads_no_suite_and_no_torch():
    heavy = ("torch", "numpy", "pettingzoo", "gymnasium", "mpe2", "pyspiel")
    program = f"import sys, marl.envs.suites; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
