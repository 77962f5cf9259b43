"""Trained policies, taken out of a run directory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from marl.errors import InputError
from marl.games.policy_players import blank_step
from marl.launchers.run.policy_sources import load_source
from marl.launchers.run.trained_run import TrainedRun
from marl.types import TimeStep


class LoadedPolicy:
    """A trained run's policies for one PettingZoo environment of your own, agent by agent.

    ::

        player = load_policy("runs/spread")
        actions = player.act(observations)   # {agent: observation} to {agent: action}
    """

    def __init__(self, run: TrainedRun) -> None:
        self.run = run
        self.reset()

    def reset(self) -> None:
        """Forgets recurrent states; call it at the beginning of an episode."""
        self._actor = self.run.actor()
        self._first = True

    def act(self, observations: Mapping[str, Any], infos: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Greedy actions of the agents that observe something.

        Args:
            observations: by agent, as the environment gives them.
            infos: by agent, where action masks come in them.

        Returns:
            By agent, as the environment's ``step`` takes them.

        Raises:
            InputError: an agent that the run does not know.
        """
        if unknown := sorted(set(observations) - set(self.run.spec.agents)):
            raise InputError(f"{self.run.path} knows no agent {', '.join(unknown)}; {', '.join(self.run.spec.agents)}")
        groups = {group.name: blank_step(group, 1) for group in self.run.spec.groups}
        for seat in self.run.seats:
            if seat.agent not in observations:
                continue
            raw, info = observations[seat.agent], (infos or {}).get(seat.agent, {})
            step = groups[self.run.spec.groups[seat.group].name]
            step.observations[0, seat.row] = torch.as_tensor(seat.reader.read(raw))
            step.active[0, seat.row] = True
            if step.action_masks is not None:
                step.action_masks[0, seat.row] = torch.as_tensor(seat.read_mask(raw, info)).bool()
        first = torch.full((1,), self._first)
        self._first = False
        chosen = self._actor.select_actions(TimeStep(groups=groups, state=None, first=first, final=None))
        return {
            seat.agent: seat.writer.write(
                chosen[self.run.spec.groups[seat.group].name][0, seat.row : seat.row + 1].numpy()
            )[0]
            for seat in self.run.seats
            if seat.agent in observations
        }


def load_policy(path: Path | str) -> LoadedPolicy:
    """The policies of a run, or of anything else that ``read_source`` reads, ready to act; see LoadedPolicy."""
    return LoadedPolicy(load_source(path))
