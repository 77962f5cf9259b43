"""Programs on several ranks."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from jobs import Finished, start_on_ranks


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Leaves the tests of a file to one worker, so that a job whose results many of them read is run once."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.xdist_group(item.path.name))


@pytest.fixture(scope="session")
def mpirun() -> Callable[..., Finished]:
    """``mpirun(ranks, program, *arguments, timeout=120)`` runs a Python file on so many ranks."""
    return start_on_ranks
