"""Uniform samples of everything that was ever added: a reservoir for each environment (Vitter 1985, algorithm R)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from marl.core import Communicator, Saveable, State
from marl.errors import InputError
from marl.random_streams import Stream
from marl.replay.layout import Layout, Staging, as_array
from marl.replay.selectors import BatchDraws
from marl.resources.memory import require_memory
from marl.specs import ArraySpec, ContinuousActions, GroupSpec
from marl.types import Array, Integers


@dataclass(frozen=True, slots=True, kw_only=True)
class Decisions:
    """Steps at which agents of one group decided; views of storage that the next sample overwrites."""

    observations: Tensor
    """(B, A, *observation shape)."""
    action_masks: Tensor | None
    """(B, A, mask size) bool."""
    actions: Tensor
    """(B, A, *action shape)."""
    counted: Tensor
    """(B, A) bool: True for decisions that count."""


class Reservoir(Saveable):
    """Decisions of one group, of which each step that was ever added is kept with the same probability.

    Each environment has a reservoir of its own: its contents follow from the seed, the environment's global index and
    how many steps it has added, so that the number of ranks does not matter. Batches are drawn from all reservoirs, by
    how many steps each holds.

    Args:
        group: the agents that decide.
        capacity: steps over all environments and ranks.
        num_envs: environments on this rank, E.
        first_env: global index of the first of them.
        global_num_envs: environments on all ranks.
        seed: the experiment's.
        communicator: the ranks.

    Raises:
        InputError: capacity is below one step an environment, or needs more memory than there is.
    """

    def __init__(
        self,
        group: GroupSpec,
        *,
        capacity: int,
        num_envs: int,
        first_env: int,
        global_num_envs: int,
        seed: int,
        communicator: Communicator,
    ) -> None:
        if capacity < global_num_envs:
            raise InputError(
                f"a reservoir of {capacity} steps is below one for each of {global_num_envs} environments; "
                "raise --nfsp.reservoir"
            )
        fields = {
            "observations": ArraySpec(shape=(group.size, *group.observation.shape), dtype=group.observation.dtype),
            "actions": ArraySpec(shape=(group.size, *group.action.array.shape), dtype=group.action.array.dtype),
            "counted": ArraySpec(shape=(group.size,), dtype=torch.bool),
        }
        if group.masked and not isinstance(group.action, ContinuousActions):
            fields["action_masks"] = ArraySpec(shape=(group.size, group.action.mask_size), dtype=torch.bool)
        self._layout = Layout(fields)
        self.rows = capacity // global_num_envs
        require_memory(
            self.rows * num_envs * self._layout.record_bytes,
            lambda needs, share: (
                f"a reservoir of {capacity:,} steps {needs}; lower --nfsp.reservoir below {int(capacity * share):,}"
            ),
            communicator,
        )
        self._num_envs, self._first_env, self._global_num_envs = num_envs, first_env, global_num_envs
        self._communicator = communicator
        self._records: Integers = np.zeros((self.rows, num_envs, self._layout.words), np.int64)
        self._staging = Staging(self._layout, (num_envs,))
        self._added: Integers = np.zeros(num_envs, np.int64)
        """(E,): steps that each environment has ever added."""
        self._stream = Stream(seed, f"reservoir/{group.name}", first_env=first_env, num_envs=num_envs)
        self._draw = BatchDraws(seed, f"reservoir/{group.name}/batches")
        self._stored: Integers = np.zeros(global_num_envs, np.int64)

    def add(self, observations: Tensor, action_masks: Tensor | None, actions: Tensor, counted: Tensor) -> None:
        """Adds a step of each environment in which a decision counts; fields (E, A, ...) as in Decisions."""
        flags = as_array(counted)
        envs = np.flatnonzero(flags.any(1))
        if not len(envs):
            return
        numbers = self._added[envs]
        slots = numbers.copy()
        full = numbers >= self.rows
        if full.any():
            words = self._stream.words(torch.from_numpy(self._added), 2)[0].numpy()[envs]
            uniforms = ((words[:, 0] >> 5) * 2.0**26 + (words[:, 1] >> 6)) * 2.0**-53
            slots = np.where(full, (uniforms * (numbers + 1)).astype(np.int64), numbers)
        self._added[envs] += 1
        kept = slots < self.rows
        envs, slots = envs[kept], slots[kept]
        values: dict[str, Array] = {"observations": as_array(observations), "actions": as_array(actions)}
        values["counted"] = flags
        if action_masks is not None:
            values["action_masks"] = as_array(action_masks)
        for name, value in values.items():
            self._staging.arrays[name][envs] = value[envs]
        self._records[slots, envs] = self._staging.records[envs]

    def agree(self) -> int:
        """Exchanges how much all ranks' reservoirs hold, and returns the sum. Collective."""
        self._stored.fill(0)
        mine = slice(self._first_env, self._first_env + self._num_envs)
        self._stored[mine] = np.minimum(self._added, self.rows)
        self._communicator.all_reduce(torch.from_numpy(self._stored))
        return int(self._stored.sum())

    def sample(self, batch_size: int, number: int) -> Decisions:
        """Draws this rank's share of global batch ``number``, with replacement from what ``agree`` knows of."""
        ends = np.cumsum(self._stored)
        places = self._draw(number, batch_size) * ends[-1] >> 32
        envs = np.searchsorted(ends, places, side="right")
        slots = places - (ends - self._stored)[envs]
        envs = envs - self._first_env
        mine = (envs >= 0) & (envs < self._num_envs)
        records = torch.from_numpy(self._records[slots[mine], envs[mine]])
        found = self._layout.tensors(records)
        return Decisions(
            observations=found["observations"],
            action_masks=found.get("action_masks"),
            actions=found["actions"],
            counted=found["counted"],
        )

    def clear(self) -> None:
        """Forgets all decisions."""
        self._added.fill(0)

    def env_state_dict(self) -> State:
        """Records, (E, filled rows, words), and counts and rows, (E,) int64."""
        filled = min(max(1, int(self._added.max(initial=0))), self.rows)
        return {
            "records": torch.from_numpy(self._records[:filled]).transpose(0, 1).contiguous(),
            "added": torch.from_numpy(self._added.copy()),
            "rows": torch.full((self._num_envs,), self.rows),
        }

    def load_env_state_dict(self, state: State) -> None:
        """Restores what ``env_state_dict`` gave; raises ValueError where capacity or spec are others."""
        records, rows = state["records"], int(state["rows"][0])
        if (rows, records.shape[2]) != (self.rows, self._layout.words):
            raise ValueError(
                f"saved reservoirs hold {rows} records of {records.shape[2]} words, but these {self.rows} of "
                f"{self._layout.words}"
            )
        torch.from_numpy(self._records[: records.shape[1]]).copy_(records.transpose(0, 1))
        self._added[:] = state["added"].numpy()
