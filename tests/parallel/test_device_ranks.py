"""Ranks reduce what is on another device as they reduce what is on the CPU."""

import ast
from pathlib import Path

import pytest

# Not imported: what is pretended there would hold for all tests.
PROGRAM = Path(__file__).with_name("device_ranks.py")
CHECKS = [
    part.name
    for part in ast.parse(PROGRAM.read_text()).body
    if isinstance(part, ast.FunctionDef) and part.name.startswith("check_")
]


@pytest.fixture(scope="module")
def finished(mpirun):
    return mpirun(2, PROGRAM)


@pytest.mark.parametrize("name", CHECKS)
def test_on_two_ranks(finished, name):
    assert f"passed {name}" in finished.stdout.splitlines(), finished.stderr


def test_checks_end_in_order(finished):
    assert (finished.code, finished.stderr) == (0, "")
