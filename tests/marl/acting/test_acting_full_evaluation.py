"""Evaluations of all modes, and against random moves; numbers of infos."""

import math

import pytest
import torch
from reporting_games import Higher, Paid

from marl.acting.full_evaluation import evaluate_modes
from marl.acting.modes import modes_to_play
from marl.core import EnvironmentRequest
from marl.distributed.communicators import SerialCommunicator
from marl.envs.factory import vectorize
from marl.errors import InputError
from marl.policy import Decision, Policy


class Bold(Policy):
    """Names the highest number, or draws one."""

    def __init__(self, *, greedy):
        self.num_uniforms = 0 if greedy else 1

    def act(self, step, first, state, uniforms):
        shape = step.active.shape
        actions = torch.full(shape, 3) if uniforms is None else (uniforms.squeeze(-1) * 4).long()
        return Decision(actions=actions, extras={}, state=None)


class Rank(SerialCommunicator):
    """One of several ranks, whose rows are kept for the test."""

    def __init__(self, rank, size):
        self.rank, self.size, self.sent = rank, size, []

    def gather_rows(self, tensor):
        self.sent.append(tensor.clone())
        return tensor.clone()


def play(make=Higher, *, episodes=400, modes=("greedy", "sampled"), communicator=None, num_envs=16, **settings):
    environment = vectorize(make)
    spec = environment(EnvironmentRequest(num_envs=1)).spec
    return evaluate_modes(
        {mode: {group.name: Bold(greedy=mode == "greedy") for group in spec.groups} for mode in modes},
        spec,
        environment,
        episodes=episodes,
        num_envs=num_envs,
        seed=0,
        communicator=communicator or SerialCommunicator(),
        **settings,
    )


def test_opposed_sides_report_wins_against_random_moves_from_each_seat_in_turn():
    summary = play().summary()
    assert summary["evaluation/return_mean"] == 0.0
    # Among themselves all name 3; a random opponent does so once in four.
    assert summary["evaluation/draw_rate/p_0"] == 1.0
    half_width = 3.5 * math.sqrt(0.75 * 0.25 / 200)
    for seat in ("p_0", "p_1"):
        assert summary[f"evaluation/random/win_rate/{seat}"] == pytest.approx(0.75, abs=half_width)
        assert summary[f"evaluation/random/loss_rate/{seat}"] == 0.0
        assert summary[f"evaluation/random/return/{seat}"] == summary[f"evaluation/random/win_rate/{seat}"]
        # Two that draw evenly: 6 of 16 wins, 4 draws.
        sampled = [summary[f"evaluation/sampled/{kind}win_rate/{seat}"] for kind in ("", "random/")]
        assert sampled == pytest.approx([0.375, 0.375], abs=3.5 * math.sqrt(0.375 * 0.625 / 200))
    assert summary["evaluation/random/games"] == 400
    assert summary["evaluation/random/score"] == pytest.approx(0.875, abs=half_width)


def test_a_common_return_is_reported_as_it_was():
    summary = play(lambda: Paid(["a", "b"]), episodes=4, modes=("greedy",)).summary()
    assert summary == {
        "evaluation/return_mean": 15.0,
        "evaluation/return_ci95": 0.0,
        "evaluation/episodes": 4,
        "evaluation/episode_length": 5.0,
        "evaluation/return/a": 5.0,
        "evaluation/return/b": 10.0,
        "evaluation/info/battle_won": 1.0,
        "evaluation/info/episode_stats/kills": 1.0,
    }


def test_both_modes_play_the_same_episodes_with_numbers_of_their_own():
    alone = play(modes=("sampled",))
    both = play()
    assert torch.equal(both.sampled.returns, alone.returns)
    assert alone.summary()["evaluation/sampled/return/p_0"] == alone.summary()["evaluation/return/p_0"]
    # The games against random moves are not those among themselves.
    assert not torch.equal(both.sampled.against_random.returns, both.sampled.returns)


@pytest.mark.parametrize("ranks", [2, 4])
def test_all_modes_are_the_same_on_any_number_of_ranks(ranks):
    def rows(size):
        communicators = [Rank(rank, size) for rank in range(size)]
        for communicator in communicators:
            play(episodes=21, num_envs=6, communicator=communicator)
        assert len({len(communicator.sent) for communicator in communicators}) == 1
        tables = [torch.cat(parts) for parts in zip(*(c.sent for c in communicators), strict=True)]
        return [table[table[:, 0].argsort()] for table in tables]

    one, several = rows(1), rows(ranks)
    assert len(one) == len(several) == 4
    assert all(map(torch.equal, one, several))


def test_progress_is_told_at_every_step():
    told = []
    play(episodes=6, num_envs=2, modes=("greedy",), progress=lambda *what: told.append(what))
    assert [what for what in told if "random" not in what[0]] == [("greedy evaluation", done, 6) for done in (2, 4, 6)]
    assert told[-1] == ("greedy evaluation against random moves", 6, 6)


def test_policies_that_draw_nothing_are_played_greedily_only():
    assert modes_to_play("both", stochastic=True) == ("greedy", "sampled")
    assert modes_to_play("both", stochastic=False) == modes_to_play("greedy", stochastic=True) == ("greedy",)
    assert modes_to_play("sampled", stochastic=True) == ("sampled",)
    with pytest.raises(InputError, match="deterministic once they are trained"):
        modes_to_play("sampled", stochastic=False)
