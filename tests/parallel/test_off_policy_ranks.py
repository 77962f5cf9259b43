"""What off-policy learners learn does not depend on the number of ranks, even where most have an empty replay."""

from pathlib import Path

import off_policy_ranks
import pytest
import torch
from off_policy_ranks import SCENARIOS

from marl.checkpoints.checkpoint import list_checkpoints, load_checkpoint
from marl.experiments.resource_usage import MACHINE

SEVERAL = (2, pytest.param(4, marks=pytest.mark.slow))
"""Four ranks take minutes where there are two busy cores."""
SAVED = [name for name in SCENARIOS if name != "replay not saved"]


@pytest.fixture(scope="session")
def finished(mpirun, tmp_path_factory):
    """Runs all scenarios once for each number of ranks, one rank first."""
    folder = tmp_path_factory.mktemp("off-policy")
    runs = {}

    def run(ranks: int):
        for needed in (1, ranks):
            if needed not in runs:
                runs[needed] = mpirun(needed, Path(off_policy_ranks.__file__), str(folder), timeout=240)
                assert (runs[needed].code, runs[needed].stderr) == (0, ""), runs[needed].stdout
        return folder

    return run


def load(folder, scenario, ranks):
    return torch.load(folder / f"{scenario} {ranks}.pt")


def assert_near(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=2e-3, atol=2e-5, msg=lambda text, name=name: name + text)


def timeless(rows):
    return [{name: value for name, value in row.items() if name not in MACHINE} for row in rows]


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("ranks", SEVERAL)
def test_weights_do_not_depend_on_the_number_of_ranks(finished, ranks, scenario):
    folder = finished(ranks)
    one, several = (load(folder, scenario, number) for number in (1, ranks))
    assert one["rows"][-1]["updates"] >= 8
    for ours, theirs in zip(several["rows"], one["rows"], strict=True):
        assert (ours["env_steps"], ours["updates"]) == (theirs["env_steps"], theirs["updates"])
    assert_near(several["weights"], one["weights"])


@pytest.mark.parametrize("ranks", SEVERAL)
def test_ranks_without_a_single_item_learn_like_the_others(finished, ranks):
    stored = load(finished(ranks), "empty shards", ranks)["stored"]
    assert stored[0] > 8
    assert stored[1:] == [0.0] * (ranks - 1)


@pytest.mark.parametrize("scenario", SAVED)
@pytest.mark.parametrize("ranks", [1, *SEVERAL])
def test_a_resumed_run_with_its_replay_equals_an_undisturbed_one(finished, ranks, scenario):
    found = load(finished(ranks), scenario, ranks)
    for name, tensor in found["weights"].items():
        assert torch.equal(found["weights resumed"][name], tensor), name
    resumed = timeless(found["rows resumed"])
    assert 0 < len(resumed) < len(found["rows"])
    assert timeless(found["rows"])[-len(resumed) :] == resumed


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("ranks", SEVERAL)
def test_a_run_goes_on_with_another_number_of_ranks(finished, ranks, scenario):
    folder = finished(ranks)
    one, several = (load(folder, scenario, number) for number in (1, ranks))
    assert_near(several["weights resumed from one rank"], one["weights resumed"])
    # And back to one rank, here.
    again = off_policy_ranks.make(scenario, None)
    again.load(load_checkpoint(list_checkpoints(folder / f"{scenario} {ranks}")[-2]))
    weights, _ = off_policy_ranks.run(again)
    assert_near(weights, several["weights resumed"])


@pytest.mark.parametrize("ranks", [1, *SEVERAL])
def test_without_saved_replay_all_ranks_wait_for_new_items_and_then_learn_again(finished, ranks):
    found = load(finished(ranks), "replay not saved", ranks)
    whole, resumed = found["rows"], found["rows resumed"]
    envs, waits = off_policy_ranks.COPIES, off_policy_ranks.REPLAY.min_size
    saved = SCENARIOS["replay not saved"][2] // 2 * envs
    assert resumed[0]["env_steps"] == saved + waits
    assert saved + envs in [row["env_steps"] for row in whole]
    assert resumed[-1]["env_steps"] == whole[-1]["env_steps"]
    assert resumed[-1]["updates"] > resumed[0]["updates"]
