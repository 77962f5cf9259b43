"""A full evaluation: all modes, and where sides oppose each other, games against random moves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from marl.acting.evaluation import Evaluation, evaluate
from marl.acting.modes import Mode
from marl.acting.outcomes import Outcomes, are_opposed
from marl.core import Communicator, EnvironmentFactory
from marl.games.sides import Sides
from marl.policy import Policy
from marl.specs import EnvironmentSpec


def evaluate_modes(
    policies: Mapping[Mode, Mapping[str, Policy]],
    spec: EnvironmentSpec,
    environment: EnvironmentFactory,
    *,
    communicator: Communicator,
    teams: Mapping[str, str] | None = None,
    against_random: bool = True,
    **settings: Any,
) -> Evaluation:
    """Plays the same number of episodes in each mode, and as many against random moves where sides are opposed.

    Args:
        policies: by mode, the headline's first; one a group.
        spec: of the environment.
        environment: makes it.
        communicator: the ranks.
        teams: the team of each agent; see Sides.
        against_random: whether to play against random moves too.
        **settings: others of ``evaluate``.

    Returns:
        The headline's evaluation, which holds the other mode's; complete on rank 0.
    """
    found = {
        mode: evaluate(chosen, spec, environment, communicator=communicator, mode=mode, **settings)
        for mode, chosen in policies.items()
    }
    if len(spec.agents) > 1:
        sides = Sides(spec, teams)
        evidence = [sides.returns(one.returns) for one in found.values()]
        opposed = _agreed(are_opposed(torch.cat(evidence)), communicator)
        random: dict[Mode, Outcomes] = {}
        if against_random and opposed is not False:
            # Where nobody has gained anything yet, games against random moves may tell whether sides are opposed.
            for mode, chosen in policies.items():
                games = evaluate(
                    chosen, spec, environment, communicator=communicator, mode=mode, sides=sides, **settings
                ).against_random
                assert games is not None
                random[mode] = games
                evidence.append(games.returns)
            opposed = are_opposed(torch.cat(evidence))
        if opposed:
            found = {
                mode: replace(
                    one,
                    outcomes=Outcomes(sides=sides.names, returns=sides.returns(one.returns)),
                    against_random=random.get(mode),
                )
                for mode, one in found.items()
            }
    headline, *others = found.values()
    return replace(headline, sampled=others[0]) if others else headline


def _agreed(opposed: bool | None, communicator: Communicator) -> bool | None:
    """Rank 0's answer, on all ranks."""
    answers = (None, False, True)
    answer = torch.tensor([answers.index(opposed)])
    communicator.broadcast(answer)
    return answers[int(answer)]
