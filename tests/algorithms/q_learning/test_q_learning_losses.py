"""Losses of temporal differences with known answers."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from marl.algorithms.q_learning.batches import ValueBatch
from marl.algorithms.q_learning.config import QLearningConfig
from marl.algorithms.q_learning.losses import TD_METRICS, TDTerms, td_losses


def batch_of(template: Tensor, *, ended: Tensor | None, weights: list[float]) -> ValueBatch:
    learn = torch.ones_like(template, dtype=torch.bool)
    return ValueBatch(
        groups={},
        state=None,
        next_state=None,
        rewards=template,
        discounts=template,
        learn=learn,
        ended=ended,
        weights=torch.tensor(weights),
    )


def metrics(losses) -> Mapping[str, float]:
    return dict(zip(TD_METRICS, losses.metrics.tolist(), strict=True))


def test_agents_losses_are_weighted_by_item_and_the_largest_error_is_the_items():
    learn = torch.tensor([[True, True], [True, False]])
    values = torch.tensor([[1.0, 2.0], [3.0, 9.0]], requires_grad=True)
    terms = TDTerms(values, torch.full((2, 2), 4.0), torch.ones(2, 2), torch.full((2, 2), 0.5), learn)
    batch = batch_of(torch.ones(2), ended=None, weights=[1.0, 0.5])
    losses = td_losses(terms, batch, QLearningConfig())
    # The targets are 1 + 0.5 · 4 = 3, and so the errors 2, 1, 0.
    assert losses.total.item() == pytest.approx(0.5 * 4.0 + 0.5 * 1.0)
    assert metrics(losses) == pytest.approx(
        {"samples": 3.0, "loss": 2.5, "absolute_error": 3.0, "value": 6.0, "target": 9.0}
    )
    assert losses.td_errors.tolist() == [2.0, 0.0]
    losses.total.backward()
    assert values.grad is not None
    assert values.grad.tolist() == [[-2.0, -1.0], [0.0, 0.0]]


# Row 1 is worth 1 + 0.5 · 20 = 11; row 0 with n steps 1 + 0.5 · 11, with λ 1 + 0.5 (0.4 · 10 + 0.6 · 11).
@pytest.mark.parametrize(("settings", "first"), [({"n_step": 3}, 6.5), ({"td_lambda": 0.6}, 6.3)])
@pytest.mark.parametrize("of_agents", [False, True])
def test_targets_of_sequences_reach_over_later_steps_but_not_over_the_end(of_agents, settings, first):
    ended = torch.tensor([[False], [True], [True]])
    rows = torch.ones(3, 1)
    learn = torch.tensor([[True], [True], [False]])
    values = torch.zeros(3, 1, requires_grad=True)
    terms = TDTerms(values, torch.tensor([[10.0], [20.0], [30.0]]), rows, 0.5 * rows, learn, ended)
    if of_agents:
        terms = TDTerms(*(term.unsqueeze(-1) for term in terms if term is not None))
    batch = batch_of(rows, ended=ended, weights=[1.0])
    batch = replace(batch, learn=learn)
    losses = td_losses(terms, batch, QLearningConfig(**settings))
    # Row 2 is padding.
    assert metrics(losses)["target"] == pytest.approx(11.0 + first)
    # Kapturowski et al. 2019, section 2.3, with η = 0.9.
    assert losses.td_errors.tolist() == pytest.approx([0.9 * 11.0 + 0.1 * (11.0 + first) / 2.0])
