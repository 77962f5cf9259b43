"""Trained policies, taken out of a run directory."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from marl.acting.modes import Mode, modes_to_play
from marl.envs.pettingzoo.rows import ApiError, Seat, check_row, read_observation
from marl.errors import InputError
from marl.games.policy_players import blank_step
from marl.launchers.run.policy_sources import load_source
from marl.launchers.run.trained_run import TrainedRun
from marl.types import Array, TimeStep


class LoadedPolicy:
    """A trained run's policies for one PettingZoo environment of your own, agent by agent.

    ::

        player = load_policy("runs/spread")
        actions = player.act(observations)   # {agent: observation} to {agent: action}
    """

    def __init__(self, run: TrainedRun, *, mode: Mode = "greedy", seed: int = 0) -> None:
        self.run = run
        self._mode, self._seed = mode, seed
        self._episodes = 0
        self.reset()

    def reset(self) -> None:
        """Forgets recurrent states and what agents saw; call it at the beginning of an episode."""
        self._actor = self.run.actor(seed=self._seed, purpose=f"act/{self._episodes}", mode=self._mode)
        self._episodes += 1
        self._groups = {group.name: blank_step(group, 1) for group in self.run.spec.groups}
        self._first = True

    def act(
        self,
        observations: Mapping[Any, Any],
        infos: Mapping[Any, Any] | None = None,
        *,
        action_masks: Mapping[Any, Any] | None = None,
    ) -> dict[Any, Any]:
        """Actions of the agents that observe something.

        Args:
            observations: by agent, as the environment gives them.
            infos: by agent, where action masks come in them.
            action_masks: by agent, 1 where legal; in place of those in observations or infos.

        Returns:
            By agent, as the environment's ``step`` takes them.

        Raises:
            InputError: an agent that the run does not know, an observation that is not of its space or not finite, or
                an action mask that is missing, of another length, or all zero.
        """
        given = {_name(agent): agent for agent in observations}
        if unknown := sorted(set(given) - set(self.run.spec.agents)):
            raise InputError(f"{self.run.path} knows no agent {', '.join(unknown)}; {', '.join(self.run.spec.agents)}")
        seats = [seat for seat in self.run.seats if seat.agent in given]
        # All is read before anything is kept: a refused call leaves no trace.
        rows = [
            (seat, *self._read(seat, observations[given[seat.agent]], infos, action_masks, given[seat.agent]))
            for seat in seats
        ]
        for step in self._groups.values():
            step.active.fill_(False)
        for seat, observation, mask in rows:
            step = self._groups[self.run.spec.groups[seat.group].name]
            step.observations[0, seat.row] = torch.as_tensor(observation)
            step.active[0, seat.row] = True
            if step.action_masks is not None and mask is not None:
                step.action_masks[0, seat.row] = torch.as_tensor(mask)
        first = torch.full((1,), self._first)
        self._first = False
        chosen = self._actor.select_actions(TimeStep(groups=self._groups, state=None, first=first, final=None))
        return {
            given[seat.agent]: seat.writer.write(
                chosen[self.run.spec.groups[seat.group].name][0, seat.row : seat.row + 1].numpy()
            )[0]
            for seat in seats
        }

    def _read(
        self,
        seat: Seat,
        raw: Any,
        infos: Mapping[Any, Any] | None,
        action_masks: Mapping[Any, Any] | None,
        key: Hashable,
    ) -> tuple[Array, Array | None]:
        """An agent's observation, and its mask where it has masks; the same checks as in training."""
        spec = seat.reader.spec
        dtype = np.dtype(str(spec.dtype).removeprefix("torch."))
        try:
            array = check_row(
                read_observation(seat, raw, 0), spec.shape, dtype, agent=seat.agent, copy=0, what="observation"
            )
        except ApiError as error:
            raise InputError(f"agent {seat.agent!r}: {error.rule}, but {error.detail}") from error
        if not np.isfinite(array).all():
            raise InputError(f"agent {seat.agent!r}: the observation is finite, but it holds NaN or infinity")
        if action_masks is not None and key in action_masks:
            mask: Any = action_masks[key]
        elif seat.reader.masked:
            return array, self._checked(seat, seat.read_mask(raw, None))
        else:
            info = None if infos is None else infos.get(key)
            mask = seat.reader.read_mask(raw, info)
        if mask is None:
            if seat.masked:
                raise InputError(
                    f"agent {seat.agent!r} had action masks in training and has none here: hand on the infos, "
                    "act(observations, infos), or act(observations, action_masks={agent: mask})"
                )
            return array, None
        if not seat.masked:
            raise InputError(f"agent {seat.agent!r} was trained without action masks and cannot keep to one")
        return array, self._checked(seat, mask)

    @staticmethod
    def _checked(seat: Seat, mask: Any) -> Array:
        size = seat.writer.spec.mask_size
        parts = mask if isinstance(mask, (tuple, list)) and np.ndim(mask[0]) else (mask,)
        flat = np.concatenate([np.asarray(part).reshape(-1) for part in parts])
        if flat.shape != (size,):
            raise InputError(f"agent {seat.agent!r}: the action mask has {flat.size} entries for {size} actions")
        if not flat.any():
            raise InputError(f"agent {seat.agent!r}: the action mask is all zero, so nothing is legal")
        return flat.astype(bool)


def load_policy(path: Path | str, *, evaluation_policy: Mode = "greedy", seed: int = 0) -> LoadedPolicy:
    """The policies of a run, or of anything else that ``read_source`` reads, ready to act; see LoadedPolicy.

    Args:
        path: a run directory, one of the checkpoints in it, a league's snapshot or its mixture.
        evaluation_policy: greedy for the best actions, or sampled as they were trained to be drawn.
        seed: of samples.

    Raises:
        InputError: as ``read_source``; or samples of policies that draw nothing.
    """
    run = load_source(path)
    (mode,) = modes_to_play(evaluation_policy, stochastic="sampled" in run.modes)
    return LoadedPolicy(run, mode=mode, seed=seed)


def _name(agent: Any) -> str:
    """An agent's name as training knows it."""
    return agent if isinstance(agent, str) else str(agent)
