import itertools
from pathlib import Path

import pytest
import rank_checks
import torch

RANKS = (1, 2, 3, 4)


@pytest.fixture(scope="session")
def finished(mpirun, tmp_path_factory):
    """Runs all checks once for each number of ranks."""
    folder = tmp_path_factory.mktemp("weights")
    runs = {}

    def run(ranks: int):
        if ranks not in runs:
            runs[ranks] = mpirun(ranks, Path(rank_checks.__file__), str(folder))
        return runs[ranks], folder

    return run


@pytest.mark.parametrize(("ranks", "name"), list(itertools.product(RANKS, rank_checks.CHECKS)))
def test_on_any_number_of_ranks(finished, ranks, name):
    run, _ = finished(ranks)
    assert f"passed {name}" in run.stdout.splitlines(), run.stderr


@pytest.mark.parametrize("ranks", RANKS)
def test_checks_end_in_order(finished, ranks):
    run, _ = finished(ranks)
    assert (run.code, run.stderr) == (0, "")


@pytest.mark.parametrize("ranks", RANKS[1:])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)], ids=str)
def test_weights_after_20_updates_do_not_depend_on_the_number_of_ranks(finished, ranks, dtype, tolerance):
    for needed in (1, ranks):
        _, folder = finished(needed)
    one, several = (torch.load(folder / f"{size}-{dtype}.pt") for size in (1, ranks))
    assert (several - one).norm() / one.norm() <= tolerance
