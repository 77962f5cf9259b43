"""What all off-policy algorithms refuse."""

import pytest
import torch

from marl.algorithms.off_policy.builder import refuse_opponents
from marl.distributed.communicators import SerialCommunicator
from marl.errors import InputError
from marl.replay import GroupTransitions, Transitions


def sample_of(rewards: list[list[float]]) -> Transitions:
    """Transitions of two groups of one agent each, with these rewards."""
    items = len(rewards)

    def group(column: int) -> GroupTransitions:
        return GroupTransitions(
            observations=torch.zeros(items, 1, 1),
            action_masks=None,
            active=torch.ones(items, 1, dtype=torch.bool),
            actions=torch.zeros(items, 1, dtype=torch.int64),
            rewards=torch.tensor(rewards)[:, column : column + 1],
            discounts=torch.ones(items, 1),
            next_observations=torch.zeros(items, 1, 1),
            next_action_masks=None,
            next_active=torch.ones(items, 1, dtype=torch.bool),
        )

    return Transitions(
        groups={"a": group(0), "b": group(1)},
        state=None,
        next_state=None,
        discounts=torch.ones(items),
        weights=torch.ones(items),
        indices=torch.zeros((items, 2), dtype=torch.int64),
        positions=torch.arange(items),
        global_batch_size=items,
    )


def test_agents_whose_rewards_always_cancel_are_no_team():
    with pytest.raises(InputError, match="add up to 0 at every step"):
        refuse_opponents(sample_of([[1.0, -1.0], [-2.0, 2.0]] * 8), SerialCommunicator())


@pytest.mark.parametrize(
    "rewards",
    [
        [[1.0, -1.0]] * 15 + [[1.0, 1.0]],
        [[0.0, 0.0]] * 64,
        # A few payments say little: they may cancel by chance.
        [[1.0, -1.0]] * 3 + [[0.0, 0.0]] * 61,
    ],
    ids=["one that does not cancel", "none", "few"],
)
def test_rewards_of_a_team_are_accepted(rewards):
    refuse_opponents(sample_of(rewards), SerialCommunicator())
