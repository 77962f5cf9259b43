"""MAPPO's weights, figures and evaluations do not depend on the number of ranks, nor on being stopped."""

from pathlib import Path

import mappo_ranks
import pytest
import torch
from mappo_ranks import SAVED_AFTER, SCENARIOS, UPDATES

from marl.checkpoints.checkpoint import list_checkpoints, load_checkpoint
from marl.experiments.resource_usage import MACHINE

RANKS = (1, 2, 3, 4)


@pytest.fixture(scope="session")
def finished(mpirun, tmp_path_factory):
    """Runs all scenarios once for each number of ranks, one rank first."""
    folder = tmp_path_factory.mktemp("mappo")
    runs = {}

    def run(ranks: int):
        for needed in (1, ranks):
            if needed not in runs:
                runs[needed] = mpirun(needed, Path(mappo_ranks.__file__), str(folder))
                assert (runs[needed].code, runs[needed].stderr) == (0, ""), runs[needed].stdout
        return folder

    return run


def load(folder, scenario, ranks):
    return torch.load(folder / f"{scenario} {ranks}.pt")


def distance(left, right):
    assert left.keys() == right.keys()
    flat = [torch.cat([tensor.double().flatten() for tensor in state.values()]) for state in (left, right)]
    return float((flat[0] - flat[1]).norm() / flat[1].norm())


def parameters(state):
    """Without moments and counters, whose sizes would hide differences of weights."""
    return {name: tensor for name, tensor in state.items() if ".actor." in name or ".critic." in name}


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("ranks", RANKS[1:])
def test_weights_after_20_updates_do_not_depend_on_the_number_of_ranks(finished, ranks, scenario):
    folder = finished(ranks)
    one, several = (load(folder, scenario, number) for number in (1, ranks))
    assert len(several["rows"]) == UPDATES
    assert distance(parameters(several["weights"]), parameters(one["weights"])) < 1e-4
    for ours, theirs in zip(several["rows"], one["rows"], strict=True):
        for name in ("env_steps", "updates", "episodes", "gradient_steps"):
            assert ours[name] == theirs[name]
        for name in theirs:
            if name.startswith("episode_"):
                assert ours[name] == pytest.approx(theirs[name], rel=1e-12)


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("ranks", RANKS)
def test_a_run_that_was_stopped_ends_with_the_weights_of_one_that_was_not(finished, ranks, scenario):
    found = load(finished(ranks), scenario, ranks)
    assert found["weights resumed"].keys() == found["weights"].keys()
    for name, tensor in found["weights resumed"].items():
        assert torch.equal(tensor, found["weights"][name]), name
    for resumed, row in zip(found["rows resumed"], found["rows"][SAVED_AFTER:], strict=True):
        for name in row:
            if name not in MACHINE:
                assert resumed[name] == row[name], name


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("ranks", RANKS[1:])
def test_a_run_goes_on_with_another_number_of_ranks(finished, ranks, scenario):
    folder = finished(ranks)
    more = load(folder, scenario, ranks)
    assert distance(parameters(more["weights resumed from one rank"]), parameters(more["weights"])) < 1e-4
    # And back to one rank, here.
    one = mappo_ranks.make(scenario, None)
    one.load(load_checkpoint(list_checkpoints(folder / f"{scenario} {ranks}")[-2]))
    assert one.counter.updates == SAVED_AFTER
    weights, _ = mappo_ranks.run(one)
    assert distance(parameters(weights), parameters(more["weights"])) < 1e-4


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("ranks", RANKS[1:])
def test_evaluation_does_not_depend_on_the_number_of_ranks(finished, ranks, scenario):
    folder = finished(ranks)
    one, several = (load(folder, scenario, number)["evaluation"] for number in (1, ranks))
    assert one.shape[0] == 13
    assert torch.equal(one, several)
