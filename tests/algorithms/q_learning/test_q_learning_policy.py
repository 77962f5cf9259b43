"""Policies that take the best legal action, or any legal one."""

import pytest
import torch

from marl.algorithms.q_learning.policy import epsilon_greedy


def test_greedy_actions_are_the_best_legal_ones():
    table = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
    masks = torch.tensor([[True, True, True], [False, True, True]])
    uniforms = torch.full((2, 2), 0.5)
    assert epsilon_greedy(table, masks, torch.zeros(1), uniforms).tolist() == [0, 1]


@pytest.mark.parametrize("mask", [None, [True, False, True, True], [False, False, True, False]])
def test_exploration_is_uniform_over_legal_actions(mask):
    count = 3000
    where = (torch.arange(count) + 0.5) / count
    uniforms = torch.stack((torch.full((count,), 0.3), where), -1)
    masks = None if mask is None else torch.tensor(mask).expand(count, 4)
    chosen = epsilon_greedy(torch.zeros(count, 4), masks, torch.tensor([0.5]), uniforms)
    legal = torch.ones(4) if mask is None else torch.tensor(mask).float()
    assert torch.allclose(chosen.bincount(minlength=4) / count, legal / legal.sum(), atol=1e-3)


def test_uniform_numbers_at_the_very_end_choose_the_last_legal_action():
    uniforms = torch.full((1, 2), 1.0 - 2.0**-24)
    masks = torch.tensor([[True, True, False]])
    assert epsilon_greedy(torch.zeros(1, 3), masks, torch.tensor([2.0]), uniforms).tolist() == [1]
    assert epsilon_greedy(torch.zeros(1, 3), None, torch.tensor([2.0]), uniforms).tolist() == [2]
