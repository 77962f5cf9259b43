"""Accounts of what agents of turn-based environments were paid, to compare with what ``last()`` shows them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from marl.envs.pettingzoo.rows import ApiError, brief


class Accounts:
    """One copy's rewards of each agent since its turn before.

    ``last()`` shows the mover what ``_cumulative_rewards`` holds: everything since its turn before. Whoever reads
    ``rewards`` after every step must come to the same sum, or the environment pays where only one of them looks.
    """

    def __init__(self) -> None:
        self._paid: dict[str, float] = {}
        self._shown: dict[str, float] = {}
        """Sums that each agent was shown at its turn before, or at its death."""

    def begin_episode(self) -> None:
        """Forgets the episode before."""
        self._paid.clear()
        self._shown.clear()

    def pay(self, agent: str, reward: float) -> None:
        """Notes a reward."""
        paid = self._paid
        paid[agent] = paid.get(agent, 0.0) + reward

    def compare(self, agent: str, cumulative: Mapping[str, Any], copy: int) -> None:
        """Compares an agent's account with what ``last()`` shows at its turn or death, and begins a new one.

        Raises:
            ApiError: ``last()`` shows something else.
        """
        shown = cumulative.get(agent)
        paid = self._paid.pop(agent, 0.0)
        # Some environments show all rewards of an episode, some keep no sums at all; nothing is lost by either.
        if shown not in (None, 0, paid) and not (
            _equal(shown, paid) or _equal(shown, self._shown.get(agent, 0.0) + paid)
        ):
            raise ApiError(
                "rewards hold what last() adds up",
                agent=agent,
                copy=copy,
                detail=f"last() shows {brief(shown)}, and rewards held {paid} since its turn before; write "
                "self.rewards in every step, then call self._accumulate_rewards()",
            )
        self._shown[agent] = shown or 0.0

    def compare_at_end(self, agent: str, cumulative: Mapping[str, Any], copy: int) -> None:
        """Raises ApiError where ``last()`` shows a dead agent at its last step more than at its death."""
        if agent in cumulative and agent in self._shown and not _equal(cumulative[agent], self._shown[agent]):
            raise ApiError(
                "whoever is terminated or truncated is paid nothing more",
                agent=agent,
                copy=copy,
                detail=f"last() shows {brief(cumulative[agent])} at its end, of which {brief(self._shown[agent])} came "
                "while it lived; pay it in the step in which it dies",
            )

    def late(
        self, before: Mapping[str, Any], after: Mapping[str, Any], stale: Mapping[str, Any], alive: set[str]
    ) -> dict[str, float]:
        """Rewards that a dead agent's step paid to the living.

        Args:
            before: ``_cumulative_rewards`` before the step.
            after: and after it.
            stale: ``rewards`` before the step. Some environments keep them and add them up once more.
            alive: whose rewards are of interest.
        """
        found = {}
        for agent, now in after.items():
            if agent not in before or now == before[agent]:
                continue
            reward = now - before[agent]
            if _equal(reward, stale.get(agent, 0.0)):
                sums = self._paid if agent in alive else self._shown
                sums[agent] = sums.get(agent, 0.0) + reward
            elif agent in alive:
                found[agent] = reward
        return found


def _equal(one: Any, other: Any) -> bool:
    """Returns whether two sums of rewards are equal up to float32's rounding, or no numbers at all."""
    try:
        return bool(abs(one - other) <= 1e-4 * max(1.0, abs(one), abs(other)))
    except TypeError:
        return True
