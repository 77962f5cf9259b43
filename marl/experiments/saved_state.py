"""The state of an experiment's parts: gathered from all ranks, and restored on any number of them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from marl.checkpoints.checkpoint import Checkpoint
from marl.core import Communicator, Saveable, State
from marl.distributed.broadcast import broadcast_tensors, from_root
from marl.errors import InputError
from marl.states import unflatten_state


def gather_parts(parts: Mapping[str, Saveable], communicator: Communicator) -> dict[str, Any]:
    """Gathers every part's state, and under ``envs`` the rows of all ranks' environments. Collective."""
    envs = {name: _gather(communicator, part.env_state_dict()) for name, part in parts.items()}
    return {**{name: part.state_dict() for name, part in parts.items()}, "envs": envs}


def restore_parts(parts: Mapping[str, Saveable], saved: Mapping[str, State], *, num_envs: int, rows: slice) -> None:
    """Restores the result of ``gather_parts`` on any number of ranks.

    Args:
        parts: by the same names.
        saved: their states.
        num_envs: environments over all ranks, which must be as many as those saved.
        rows: those of this rank.

    Raises:
        KeyError, ValueError, RuntimeError, IndexError: something is missing or does not fit.
    """
    env_states = unflatten_state(saved.get("envs", {}))
    found = {len(tensor) for part in env_states.values() for tensor in part.values()}
    if found != {num_envs}:
        raise ValueError(f"it holds {max(found, default=0)} environment copies, not {num_envs}")
    for name, part in parts.items():
        part.load_state_dict(saved.get(name, {}))
        part.load_env_state_dict({key: value[rows] for key, value in env_states.get(name, {}).items()})


def load_on_ranks(communicator: Communicator, load: Callable[[], Checkpoint]) -> Checkpoint:
    """Loads a checkpoint on rank 0 and sends it to all ranks. Collective.

    One reader: ranks that each read for themselves go on from different checkpoints where a folder is not shared
    between machines, or is damaged on one of them, and nothing tells.

    Args:
        communicator: the ranks.
        load: reads the checkpoint; called on rank 0 only.

    Returns:
        The same checkpoint on all ranks.

    Raises:
        InputError: by ``load``, on rank 0; the others leave too.
    """
    loaded: list[Checkpoint] = []

    def read() -> tuple[int, dict[str, Any], str]:
        loaded.append(load())
        return loaded[0].step, loaded[0].metadata, str(loaded[0].path)

    step, metadata, path = from_root(communicator, read)
    tensors = broadcast_tensors(communicator, loaded[0].tensors if loaded else None)
    return Checkpoint(step=step, tensors=tensors, metadata=metadata, path=Path(path))


@contextlib.contextmanager
def refuse_misfit(checkpoint: Checkpoint) -> Iterator[None]:
    """Turns errors that loading raises if a checkpoint does not fit into an InputError that names it."""
    try:
        yield
    except (KeyError, ValueError, RuntimeError, IndexError) as error:
        # Torch explains itself on many lines.
        reason = f"it has no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise InputError(f"{checkpoint.path} does not fit this experiment: {reason[:300]}") from error


def _gather(communicator: Communicator, state: State) -> State:
    """All environments' rows on rank 0; dimensions that differ between ranks are padded with zeros."""
    gathered: State = {}
    for name, tensor in sorted(state.items()):
        shape = torch.tensor(tensor.shape[1:], dtype=torch.int64)
        if shape.numel():
            communicator.all_reduce(shape, "max")
        gathered[name] = communicator.gather_rows(_pad(tensor.cpu(), shape.tolist()).contiguous())
    return gathered


def _pad(tensor: Tensor, shape: list[int]) -> Tensor:
    missing = [wanted - have for wanted, have in zip(shape, tensor.shape[1:], strict=True)]
    if not any(missing):
        return tensor
    return functional.pad(tensor, [amount for size in reversed(missing) for amount in (0, size)])
