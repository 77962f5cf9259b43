"""Ranks share one league: its matches, results and snapshots do not depend on their number, nor on being stopped."""

from pathlib import Path

import league_ranks
import pytest
import torch
from league_ranks import SCENARIOS

RANKS = (1, 2, 3)


@pytest.fixture(scope="session")
def finished(mpirun, tmp_path_factory):
    folder = tmp_path_factory.mktemp("league")
    runs = {}

    def run(scenario, ranks):
        if ranks not in runs:
            runs[ranks] = mpirun(ranks, Path(league_ranks.__file__), str(folder))
            assert (runs[ranks].code, runs[ranks].stderr) == (0, ""), runs[ranks].stdout
        return torch.load(folder / f"{scenario} {ranks}" / "found.pt")

    return run


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("ranks", RANKS[1:])
def test_a_league_does_not_depend_on_the_number_of_ranks(finished, scenario, ranks):
    one, several = finished(scenario, 1)["whole"], finished(scenario, ranks)["whole"]
    assert several["snapshots"] == one["snapshots"]
    assert torch.equal(several["payoffs"]["counts"], one["payoffs"]["counts"])
    assert torch.equal(several["payoffs"]["players"], one["payoffs"]["players"])
    assert several["summary"] == pytest.approx(one["summary"])
    assert int(one["payoffs"]["counts"].sum()) > 0
    for name, tensor in one["weights"].items():
        if any(part in name for part in (".actor.", ".critic.", "networks.")):
            torch.testing.assert_close(several["weights"][name], tensor, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("ranks", RANKS)
def test_a_league_that_was_stopped_ends_as_one_that_was_not(finished, scenario, ranks):
    found = finished(scenario, ranks)
    whole, resumed = found["whole"], found["resumed"]
    assert resumed["digests"] == whole["digests"]
    assert found["stopped"]["rows"] + resumed["rows"] == whole["rows"]
    assert resumed["summary"] == whole["summary"]
    for name, tensor in whole["weights"].items():
        assert torch.equal(resumed["weights"][name], tensor), name
    for name, tensor in whole["payoffs"].items():
        assert torch.equal(resumed["payoffs"][name], tensor), name
