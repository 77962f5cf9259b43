"""Tic-tac-toe, played out against every reply: whether a deterministic policy can be beaten."""

import torch

from marl.types import GroupStep

LINES = ((0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6))
EMPTY = (0,) * 9


def winner(board):
    """0 or 1 for the seat that has a line, None where nobody has."""
    for a, b, c in LINES:
        if board[a] and board[a] == board[b] == board[c]:
            return board[a] - 1
    return None


def place(board, square, seat):
    return (*board[:square], seat + 1, *board[square + 1 :])


def observation(board, seat):
    """(3, 3, 2): own marks, and the opponent's, as PettingZoo shows them."""
    squares = torch.tensor(board).view(3, 3)
    return torch.stack((squares == seat + 1, squares == 2 - seat), dim=-1)


def choose(policy, spec, boards, seat):
    """The policy's moves on boards where ``seat`` is to move."""
    (group,) = spec.groups
    shape = (len(boards), 2)
    seen = torch.zeros((*shape, 3, 3, 2), dtype=group.observation.dtype)
    masks = torch.ones((*shape, 9), dtype=torch.bool)
    for row, board in enumerate(boards):
        seen[row, seat] = observation(board, seat).to(seen.dtype)
        masks[row, seat] = torch.tensor(board) == 0
    nothing = torch.zeros(shape, dtype=torch.bool)
    active = nothing.clone()
    active[:, seat] = True
    step = GroupStep(
        observations=seen,
        action_masks=masks,
        active=active,
        rewards=torch.zeros(shape),
        terminated=nothing,
        truncated=nothing,
    )
    with torch.inference_mode():
        actions = policy.act(step, torch.zeros(len(boards), dtype=torch.bool), None, None).actions
    return actions[:, seat].tolist()


def lost_boards(policy, spec):
    """Final boards that a feed-forward greedy policy loses against some line of replies, from each seat.

    Every reply to every move of the policy is tried, so two empty sets mean that it cannot be beaten.

    Returns:
        A pair of sets of boards: seated first, seated second.
    """
    found = (set(), set())
    for seat in (0, 1):
        # Boards on which the policy is to move.
        boards = {EMPTY} if seat == 0 else {place(EMPTY, square, 0) for square in range(9)}
        while boards:
            ordered = sorted(boards)
            following = set()
            for board, square in zip(ordered, choose(policy, spec, ordered, seat), strict=True):
                assert board[square] == 0, "an illegal move"
                moved = place(board, square, seat)
                if winner(moved) is not None or 0 not in moved:
                    continue
                for reply in (square for square in range(9) if moved[square] == 0):
                    answered = place(moved, reply, 1 - seat)
                    if winner(answered) is not None:
                        found[seat].add(answered)
                    elif 0 in answered:
                        following.add(answered)
            boards = following
    return found
