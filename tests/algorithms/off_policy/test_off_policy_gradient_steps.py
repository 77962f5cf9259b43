"""Optimizer steps on samples of replay: plain and compiled ones agree, in whatever parts."""

import pytest
import torch
from torch import nn

from marl.algorithms.off_policy.gradient_steps import GradientStep, Losses, sum_losses, tensors_of, with_tensors
from marl.distributed.communicators import SerialCommunicator
from marl.learning.compilation import can_compile
from marl.replay import GroupTransitions, Transitions

ITEMS, AGENTS = 12, 2


def sample_of(items: int) -> Transitions:
    generator = torch.Generator().manual_seed(1)

    def numbers(*shape: int) -> torch.Tensor:
        return torch.rand((items, *shape), generator=generator)

    group = GroupTransitions(
        observations=numbers(AGENTS, 3),
        action_masks=None,
        active=numbers(AGENTS) < 0.8,
        actions=numbers(AGENTS, 1),
        rewards=numbers(AGENTS),
        discounts=numbers(AGENTS),
        next_observations=numbers(AGENTS, 3),
        next_action_masks=None,
        next_active=numbers(AGENTS) < 0.8,
    )
    return Transitions(
        groups={"agent": group},
        state=None,
        next_state=None,
        discounts=numbers(),
        weights=numbers(),
        indices=torch.zeros((items, 2), dtype=torch.int64),
        positions=torch.arange(items),
        global_batch_size=ITEMS,
    )


def step_of(compiled_batch_size: int | None) -> tuple[GradientStep, nn.Linear]:
    torch.manual_seed(0)
    critic, target = nn.Linear(3, 1), nn.Linear(3, 1)

    def losses(sample: Transitions, noise: dict[str, torch.Tensor]) -> Losses:
        data = sample.groups["agent"]
        with torch.no_grad():
            wanted = data.rewards + target(data.next_observations).squeeze(-1) + noise["agent"].squeeze(-1)
        errors = critic(data.observations).squeeze(-1) - wanted
        weights = data.active * sample.weights.unsqueeze(-1)
        return Losses(
            total=(errors.square() * weights).sum(),
            metrics=torch.stack([(weights > 0).sum(), (errors.detach() * weights).sum()]).unsqueeze(0),
            td_errors=errors.detach().abs().sum(1),
        )

    step = GradientStep(
        {"agent": {"critic": list(critic.parameters())}},
        ("samples", "error"),
        losses,
        [critic, target],
        SerialCommunicator(),
        learning_rate=0.1,
        epsilon=1e-8,
        max_gradient_norm=1.0,
        compiled_batch_size=compiled_batch_size,
    )
    return step, critic


@pytest.mark.skipif(not can_compile(torch.device("cpu")), reason="no C++ compiler")
@pytest.mark.parametrize("size", [ITEMS, 5])
def test_compiled_steps_agree_with_plain_ones(size):
    (plain, expected), (compiled, critic) = step_of(None), step_of(size)
    for items in (ITEMS, 7, 0):  # a rank's share of a batch differs, and may be nothing
        sample, noise = sample_of(items), {"agent": torch.rand(items, AGENTS, 1)}
        wanted, td_errors = plain(sample, noise)
        metrics, chunk_td_errors = compiled(sample, noise)
        assert metrics == pytest.approx(wanted, rel=1e-5, abs=1e-6)
        torch.testing.assert_close(chunk_td_errors, td_errors)
        torch.testing.assert_close(critic.weight, expected.weight)


def test_all_groups_losses_are_summed_and_an_items_largest_error_counts():
    parts = [
        Losses(total=torch.tensor(total), metrics=torch.tensor([total, 1.0]), td_errors=torch.tensor(td_errors))
        for total, td_errors in ((2.0, [1.0, 5.0]), (3.0, [4.0, 0.0]))
    ]
    losses = sum_losses(parts)
    assert losses.total.item() == 5.0
    assert losses.metrics.tolist() == [[2.0, 1.0], [3.0, 1.0]]
    assert losses.td_errors.tolist() == [4.0, 5.0]


def test_tensors_are_taken_out_of_a_value_and_others_put_in():
    value = (sample_of(3), {"agent": torch.ones(2)})
    tensors = [tensor + 1 for tensor in tensors_of(value)]
    sample, noise = with_tensors(value, tensors)
    assert torch.equal(sample.groups["agent"].rewards, value[0].groups["agent"].rewards + 1)
    assert torch.equal(noise["agent"], torch.full((2,), 2.0))
    assert sample.state is None
    assert sample.global_batch_size == ITEMS
    assert len(tensors_of(sample)) + 1 == len(tensors)
