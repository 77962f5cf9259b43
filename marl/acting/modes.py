"""Modes of evaluation: the policies' best actions, or actions drawn as they were trained to draw them."""

from __future__ import annotations

from typing import Literal

from marl.errors import InputError

Mode = Literal["greedy", "sampled"]
EvaluationPolicy = Literal["both", "greedy", "sampled"]


def modes_to_play(asked: EvaluationPolicy, *, stochastic: bool) -> tuple[Mode, ...]:
    """Modes to be evaluated, the one of the headline first: greedy, where it is played at all.

    Args:
        asked: by the user.
        stochastic: whether the policies draw their actions once they are trained; see ``OfflineBuilder``.

    Raises:
        InputError: samples of policies that draw nothing.
    """
    if asked == "sampled":
        if not stochastic:
            raise InputError(
                "--evaluation-policy sampled: these policies are deterministic once they are trained; use greedy"
            )
        return ("sampled",)
    return ("greedy", "sampled") if asked == "both" and stochastic else ("greedy",)
