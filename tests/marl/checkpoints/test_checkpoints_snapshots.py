"""Snapshots are found by what is in them, and never lost in silence."""

import pytest
import torch

from marl.checkpoints.snapshots import SnapshotStore, read_snapshot
from marl.distributed.communicators import SerialCommunicator
from marl.errors import InputError

SERIAL = SerialCommunicator()


def parameters(number):
    return {"policy.weight": torch.full((2, 3), float(number)), "policy.bias": torch.arange(number + 1)}


def test_snapshots_are_found_by_what_is_in_them(tmp_path):
    store = SnapshotStore(tmp_path / "snapshots")
    digests = [store.put(parameters(number)) for number in (0, 1, 0)]
    assert digests[0] == digests[2] != digests[1]
    assert sorted(path.stem for path in (tmp_path / "snapshots").iterdir()) == sorted(digests[:2])
    again = SnapshotStore(tmp_path / "snapshots").get(digests[1])
    assert again.keys() == parameters(1).keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in parameters(1).items())


def test_a_snapshot_does_not_change_with_the_learner():
    store, weights = SnapshotStore(), parameters(1)
    digest = store.put(weights)
    weights["policy.weight"].zero_()
    assert bool((store.get(digest)["policy.weight"] == 1).all())


def test_few_snapshots_are_kept_in_memory_where_there_are_files(tmp_path):
    store = SnapshotStore(tmp_path, cache_size=2)
    digests = [store.put(parameters(number)) for number in range(5)]
    assert len(store._memory) == 2
    for number, digest in enumerate(digests):
        assert torch.equal(store.get(digest)["policy.bias"], torch.arange(number + 1))


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data[:-1] + bytes([data[-1] ^ 1]), None])
def test_a_snapshot_that_is_missing_or_damaged_is_named(tmp_path, damage):
    digest = SnapshotStore(tmp_path).put(parameters(3))
    (path,) = tmp_path.iterdir()
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=digest):
        SnapshotStore(tmp_path).get(digest)
    with pytest.raises(InputError, match=digest):
        read_snapshot(path)


def test_other_ranks_write_nothing(tmp_path):
    store = SnapshotStore(tmp_path / "snapshots", writes=False)
    store.put(parameters(0))
    assert not (tmp_path / "snapshots").exists()
