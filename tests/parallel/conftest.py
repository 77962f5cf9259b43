"""Programs on several ranks."""

from collections.abc import Callable

import pytest
from jobs import Finished, start_on_ranks


@pytest.fixture(scope="session")
def mpirun() -> Callable[..., Finished]:
    """``mpirun(ranks, program, *arguments, timeout=120)`` runs a Python file on so many ranks."""
    return start_on_ranks
