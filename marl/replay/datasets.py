"""Batches of transitions or sequences from replay, let through by a rate limiter."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from marl.core import Dataset, State
from marl.errors import InputError
from marl.replay.items import GroupSequences, GroupTransitions, Sequences, Transitions
from marl.replay.layout import as_array
from marl.replay.rate_limiter import SamplesPerInsert
from marl.replay.selectors import Selection, Selector
from marl.replay.storage import Replay
from marl.states import flatten_state, unflatten_state
from marl.types import Integers

ReplaySample = TypeVar("ReplaySample")


class ReplayDataset(Dataset[ReplaySample], Generic[ReplaySample]):
    """Batches from replay, let through by a rate limiter; subclasses assemble transitions or sequences.

    Args:
        replay: holds the items.
        selector: draws them.
        limiter: decides when; None only for selectors without replacement, which inserts alone limit.
        batch_size: items a sample, over all ranks.
        device: of the samples.

    Raises:
        InputError: replay can never hold one batch, or the limiter never lets one through.
    """

    refills: bool = False

    def __init__(
        self,
        replay: Replay,
        selector: Selector,
        limiter: SamplesPerInsert | None,
        *,
        batch_size: int,
        device: torch.device | str = "cpu",
    ) -> None:
        if batch_size < 1:
            raise InputError(f"batch size must be at least 1, not {batch_size}")
        if batch_size > replay.capacity:
            raise InputError(
                f"a batch of {batch_size:,} never fits into a replay capacity of {replay.capacity:,}; "
                "lower --algorithm.replay.batch-size or raise --algorithm.replay.capacity"
            )
        if selector.without_replacement:
            if limiter is not None:
                raise InputError("first-in-first-out replay samples every item once; leave samples per insert out")
            if batch_size + replay.global_num_envs > replay.capacity:
                raise InputError(
                    f"first-in-first-out replay of {replay.capacity} items would lose some before a batch of "
                    f"{batch_size} is full; it needs {batch_size + replay.global_num_envs}"
                )
        elif limiter is None:
            raise InputError("sampling with replacement needs samples per insert, or learning would never pause")
        elif limiter.min_size > replay.capacity:
            raise InputError(
                f"learning begins at {limiter.min_size:,} items, but replay holds {replay.capacity:,}; "
                "lower --algorithm.replay.min-size or raise --algorithm.replay.capacity"
            )
        elif (limiter.batch_size, limiter.insert_size) != (batch_size, replay.global_num_envs):
            raise ValueError("the limiter was made for another batch size or number of copies")
        self.replay, self.selector, self.limiter = replay, selector, limiter
        self.batch_size = batch_size
        self._device = torch.device(device)
        self._samples = 0
        self._draws = 0
        self._buffer = torch.empty(
            (batch_size, replay.layout.words), dtype=torch.int64, pin_memory=self._device.type == "cuda"
        )
        self._out: Integers = self._buffer.numpy()
        self._ones = torch.ones(batch_size, device=self._device)
        self._whole = replay.layout.tensors(self._buffer)

    @property
    def samples(self) -> int:
        """Items sampled over all ranks, since replay was last empty."""
        return self._samples

    def ready(self) -> bool:
        """True if a whole batch is stored and the limiter lets it through. Collective: call it on all ranks."""
        self.replay.sync_counts()
        if self.selector.available() < self.batch_size:
            return False
        return self.limiter is None or self.limiter.can_sample(self.replay.inserted, self._samples)

    def sample(self) -> ReplaySample:
        """This rank's share of the next global batch; it may be empty. Collective.

        Raises:
            ValueError: fewer items are stored than one batch.
        """
        self.replay.sync_counts()
        if (available := self.selector.available()) < self.batch_size:
            raise ValueError(f"a batch of {self.batch_size} was asked of {available} items; call ready() first")
        selection = self.selector.select(self.batch_size, self._draws)
        self._draws += 1
        self._samples += self.batch_size
        count = len(selection.envs)
        self.replay.gather(selection.envs, selection.numbers, self._out[:count])
        if self._device.type != "cpu":
            # The whole record travels at once.
            fields = self.replay.layout.tensors(self._buffer[:count].to(self._device))
        elif count < self.batch_size:
            fields = {name: field[:count] for name, field in self._whole.items()}
        else:
            fields = self._whole
        return self._assemble(fields, selection)

    def update_priorities(self, indices: Tensor, priorities: Tensor) -> None:
        """Gives items of the last sample new priorities; does nothing where the selector has none.

        Args:
            indices: (B, 2) int64 from the sample.
            priorities: (B,) absolute errors, of whatever sign.
        """
        self.selector.update(as_array(indices), as_array(priorities))

    def clear(self) -> None:
        """Forgets all items, for a learner that begins anew; learning waits until there are new ones."""
        self.replay.clear()
        self.selector.clear()
        self._samples = 0

    @abstractmethod
    def _assemble(self, fields: Mapping[str, Tensor], selection: Selection) -> ReplaySample:
        """Makes the sample of fields (B, *field shape)."""

    def _weights(self, selection: Selection) -> Tensor:
        if selection.weights is None:
            return self._ones[: len(selection.envs)]
        return torch.from_numpy(selection.weights.astype(np.float32)).to(self._device)

    def _indices(self, selection: Selection) -> Tensor:
        return torch.from_numpy(np.stack((selection.envs, selection.numbers), axis=1))

    def _positions(self, selection: Selection) -> Tensor:
        return torch.from_numpy(selection.positions).to(self._device)

    def state_dict(self) -> State:
        """The number of batches drawn; and, if the records are saved, of samples, and the selector's state."""
        if not self.replay.saves:
            return {"draws": torch.tensor(self._draws)}
        counts = {"draws": torch.tensor(self._draws), "samples": torch.tensor(self._samples)}
        return counts | flatten_state({"selector": self.selector.state_dict()})

    def load_state_dict(self, state: State) -> None:
        """Loads the counts. Without saved records replay is filled anew, so its limiter begins anew too."""
        self._draws = int(state["draws"])
        if "samples" in state:
            self._samples = int(state["samples"])
            parts = unflatten_state({name: tensor for name, tensor in state.items() if "." in name})
            self.selector.load_state_dict(parts.get("selector", {}))

    def env_state_dict(self) -> State:
        """Replay's records, and the selector's state of them, if they are to be saved."""
        if not self.replay.saves:
            return {}
        return flatten_state({"replay": self.replay.env_state_dict(), "selector": self.selector.env_state_dict()})

    def load_env_state_dict(self, state: State) -> None:
        """Loads the records; an empty dictionary leaves replay empty."""
        self.refills = not state
        if state:
            parts = unflatten_state(state)
            self.replay.load_env_state_dict(parts["replay"])
            self.selector.load_env_state_dict(parts.get("selector", {}))


class TransitionDataset(ReplayDataset[Transitions]):
    """Batches of transitions; arguments as of ``ReplayDataset``."""

    def _assemble(self, fields: Mapping[str, Tensor], selection: Selection) -> Transitions:
        groups = {
            group.name: GroupTransitions(
                **_decision_fields(fields, group.name),
                next_observations=fields[f"{group.name}/next_observations"],
                next_action_masks=fields.get(f"{group.name}/next_action_masks"),
                next_active=fields[f"{group.name}/next_active"],
            )
            for group in self.replay.spec.groups
        }
        return Transitions(
            groups=groups,
            state=fields.get("state"),
            next_state=fields.get("next_state"),
            discounts=fields["discounts"],
            weights=self._weights(selection),
            indices=self._indices(selection),
            positions=self._positions(selection),
            global_batch_size=self.batch_size,
        )


class SequenceDataset(ReplayDataset[Sequences]):
    """Batches of sequences; arguments as of ``ReplayDataset``."""

    def _assemble(self, fields: Mapping[str, Tensor], selection: Selection) -> Sequences:
        fields = {name: field.transpose(0, 1) for name, field in fields.items()}
        groups = {
            group.name: GroupSequences(
                **_decision_fields(fields, group.name),
            )
            for group in self.replay.spec.groups
        }
        return Sequences(
            groups=groups,
            state=fields.get("state"),
            discounts=fields["discounts"],
            valid=fields["valid"],
            learn=fields["learn"],
            weights=self._weights(selection),
            indices=self._indices(selection),
            positions=self._positions(selection),
            global_batch_size=self.batch_size,
        )


def _decision_fields(fields: Mapping[str, Tensor], group: str) -> dict[str, Any]:
    """The fields that a group's transitions and sequences have in common."""
    names = ("observations", "active", "actions", "rewards", "discounts")
    return {name: fields[f"{group}/{name}"] for name in names} | {"action_masks": fields.get(f"{group}/action_masks")}
