"""Reservoirs keep a uniform sample of all that was added, whatever the number of ranks."""

import numpy as np
import pytest
import torch

from marl.algorithms.imitation.reservoir import Reservoir
from marl.distributed.communicators import SerialCommunicator
from marl.errors import InputError
from marl.specs import ArraySpec, DiscreteActions, GroupSpec
from marl.testing.threads import run_on_threads

GROUP = GroupSpec(
    name="player",
    agents=("player_0", "player_1"),
    observation=ArraySpec(shape=(1,)),
    action=DiscreteActions(num_actions=3),
    masked=True,
)


def reservoir(rows, envs, *, first=0, count=None, communicator=None, **settings):
    return Reservoir(
        GROUP,
        capacity=rows * envs,
        num_envs=envs if count is None else count,
        first_env=first,
        global_num_envs=envs,
        seed=settings.get("seed", 3),
        communicator=communicator or SerialCommunicator(),
    )


def fill(store, envs, steps, *, first=0, counted=None):
    """Step t of global environment e is observed as ``1000 e + t`` by agent 0, who alone decides."""
    own = torch.zeros(envs, 2, dtype=torch.bool)
    own[:, 0] = True
    for time in range(steps):
        seen = torch.zeros(envs, 2, 1)
        seen[:, 0, 0] = 1000.0 * (torch.arange(envs) + first) + time
        masks = torch.ones(envs, 2, 3, dtype=torch.bool)
        store.add(seen, masks, torch.full((envs, 2), time % 3), own if counted is None else counted(time, own))
    return store


def everything(store):
    """The observations that are kept, by environment."""
    state = store.env_state_dict()
    kept = store._layout.tensors(state["records"])["observations"][..., 0, 0]
    return [
        set(row[: int(count)].tolist()) for row, count in zip(kept, state["added"].clamp(max=store.rows), strict=True)
    ]


def test_everything_is_kept_while_there_is_room():
    store = fill(reservoir(8, 2), 2, 5)
    assert everything(store) == [{0, 1, 2, 3, 4}, {1000, 1001, 1002, 1003, 1004}]
    assert store.agree() == 10


def test_afterwards_every_step_is_kept_with_the_same_probability():
    envs, rows, steps = 4000, 5, 20
    store = fill(reservoir(rows, envs), envs, steps)
    counts = np.zeros(steps)
    for env, kept in enumerate(everything(store)):
        assert len(kept) == rows
        for value in kept:
            counts[int(value) - 1000 * env] += 1
    # 4,000 draws of probability one quarter: five standard deviations are 0.034.
    np.testing.assert_allclose(counts / envs, rows / steps, atol=0.034)


def test_only_steps_with_a_decision_that_counts_are_added():
    odd = fill(reservoir(8, 2), 2, 6, counted=lambda time, own: own & torch.tensor([[time % 2 == 1], [False]]))
    assert everything(odd) == [{1, 3, 5}, set()]
    assert odd.agree() == 3
    batch = odd.sample(50, 0)
    assert set(batch.observations[:, 0, 0].tolist()) == {1, 3, 5}
    assert batch.actions[:, 0].tolist() == (batch.observations[:, 0, 0] % 3).long().tolist()
    assert batch.counted.tolist() == [[True, False]] * 50


def test_batches_are_uniform_over_all_environments_and_do_not_depend_on_ranks():
    steps, envs = 30, 3

    def work(communicator):
        first, count = ((0, 1), (1, 2))[communicator.rank] if communicator.size == 2 else (0, envs)
        store = fill(
            reservoir(10, envs, first=first, count=count, communicator=communicator), count, steps, first=first
        )
        store.agree()
        return [store.sample(400, number).observations[:, 0, 0].tolist() for number in range(20)]

    (alone,) = run_on_threads(1, work)
    shares = run_on_threads(2, work)
    for number, batch in enumerate(alone):
        assert sorted(shares[0][number] + shares[1][number]) == sorted(batch)
    drawn = np.bincount([int(value) // 1000 for batch in alone for value in batch])
    np.testing.assert_allclose(drawn / drawn.sum(), 1 / 3, atol=0.03)
    assert alone[0] != alone[1]


def test_a_saved_reservoir_goes_on_as_one_that_was_not():
    whole = fill(fill(reservoir(4, 3), 3, 9), 3, 9)
    first = fill(reservoir(4, 3), 3, 9)
    again = reservoir(4, 3)
    again.load_env_state_dict(first.env_state_dict())
    fill(again, 3, 9)
    for name, tensor in whole.env_state_dict().items():
        assert torch.equal(again.env_state_dict()[name], tensor)
    with pytest.raises(ValueError, match="saved reservoirs hold 4 records"):
        reservoir(5, 3).load_env_state_dict(first.env_state_dict())
    again.clear()
    assert again.agree() == 0


def test_capacities_that_cannot_work_are_refused():
    with pytest.raises(InputError, match="below one"):
        Reservoir(
            GROUP,
            capacity=3,
            num_envs=4,
            first_env=0,
            global_num_envs=4,
            seed=0,
            communicator=SerialCommunicator(),
        )
    with pytest.raises(InputError, match="GiB"):
        reservoir(10**13, 4)
