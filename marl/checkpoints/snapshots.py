"""Snapshots: frozen policies' parameters, stored by the hash of their content."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch

from marl.core import Saveable, State
from marl.errors import InputError
from marl.files import write_atomically
from marl.states import flatten_state, unflatten_state


class SnapshotStore(Saveable):
    """A store of frozen parameters by the SHA-256 of their bytes: ``get`` gives them whole, or not at all.

    Args:
        directory: a file a snapshot, written by rank 0 and never removed; None to keep them in memory and in
            checkpoints.
        writes: whether this process writes the files.
        cache_size: number of snapshots kept in memory where there are files.
    """

    def __init__(self, directory: Path | None = None, *, writes: bool = True, cache_size: int = 64) -> None:
        # Environments may change the working directory.
        self.directory = None if directory is None else directory.absolute()
        self._writes = writes
        self._cache_size = cache_size
        self._memory: OrderedDict[str, State] = OrderedDict()

    def put(self, state: State) -> str:
        """Stores named tensors and returns their digest; equal ones are written once.

        Raises:
            InputError: the disk is full, or the like.
        """
        frozen = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in state.items()}
        data = safetensors.torch.save(frozen)
        digest = hashlib.sha256(data).hexdigest()
        if self.directory is not None and self._writes and not self._path(digest).exists():
            self.directory.mkdir(parents=True, exist_ok=True)
            write_atomically(self._path(digest), data)
        self._keep(digest, frozen)
        return digest

    def get(self, digest: str) -> State:
        """The tensors of a digest.

        Raises:
            InputError: its file is missing or damaged.
        """
        if digest in self._memory:
            self._memory.move_to_end(digest)
            return self._memory[digest]
        if self.directory is None:
            raise InputError(f"there is no snapshot {digest}")
        state = read_snapshot(self._path(digest))
        self._keep(digest, state)
        return state

    def check(self, digests: Sequence[str]) -> None:
        """Raises InputError where one of them is missing or damaged."""
        for digest in dict.fromkeys(digests):
            self.get(digest)

    def state_dict(self) -> State:
        """The snapshots themselves where they have no files, else nothing."""
        return {} if self.directory is not None else flatten_state(self._memory)

    def load_state_dict(self, state: State) -> None:
        if self.directory is None:
            self._memory = OrderedDict(unflatten_state(state))

    def _path(self, digest: str) -> Path:
        assert self.directory is not None
        return self.directory / f"{digest}.safetensors"

    def _keep(self, digest: str, state: State) -> None:
        self._memory[digest] = state
        self._memory.move_to_end(digest)
        while self.directory is not None and len(self._memory) > self._cache_size:
            self._memory.popitem(last=False)


def read_snapshot(path: Path) -> State:
    """The tensors of a snapshot's file, whose name is the SHA-256 of its content.

    Raises:
        InputError: the file is missing, or its content does not fit its name.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read the snapshot {path}: {error.strerror}") from error
    if hashlib.sha256(data).hexdigest() != path.name.partition(".")[0]:
        raise InputError(f"the snapshot {path} is damaged: its content is not what its name says")
    state: State = safetensors.torch.load(data)
    return state


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A frozen policy of a learner."""

    name: str
    learner: str
    """The learner that it was taken of."""
    digest: str
    """SHA-256 of its parameters."""
    env_steps: int
    """Environment steps of that learner until then."""
