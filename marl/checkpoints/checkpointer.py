"""Periodic checkpoints: old ones are removed once a new one is safe, and writing may go on in a thread."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from marl.checkpoints.checkpoint import (
    checkpoint_order,
    list_checkpoints,
    read_manifest,
    remove_checkpoint,
    save_checkpoint,
)
from marl.core import State
from marl.errors import InputError
from marl.files import Json, render_json


class Checkpointer:
    """Saves checkpoints to a folder, and removes old ones once a new one is safe.

    Args:
        directory: the folder of checkpoints.
        keep: number of newest checkpoints that stay.
        keep_every: every so many-th checkpoint stays for good; None for none.
        before: called before each is written. A journal's ``sync`` here makes its rows as safe as the checkpoint that
            stands for them.
    """

    def __init__(
        self,
        directory: Path,
        *,
        keep: int = 3,
        keep_every: int | None = None,
        before: Callable[[], None] | None = None,
    ) -> None:
        if keep < 1:
            raise InputError(f"keep at least 1 checkpoint, not {keep}")
        if keep_every is not None and keep_every < 1:
            raise InputError(f"keep every 1st, 2nd, ... checkpoint, not every {keep_every}th")
        self.directory = Path(directory).absolute()  # environments may change the working directory
        self._keep = keep
        self._keep_every = keep_every
        self._before = before

    @property
    def latest(self) -> Path | None:
        """The newest checkpoint in the folder."""
        return next(reversed(list_checkpoints(self.directory)), None)

    def save(self, step: int, tensors: Mapping[str, Tensor], metadata: Mapping[str, Json]) -> None:
        """Saves as ``save_checkpoint``, then removes checkpoints that need not stay.

        Checkpoints of later steps go too: they belong to a future that a resume from an earlier one gave up.
        """
        if self._before is not None:
            self._before()
        saved = save_checkpoint(self.directory, step, tensors, metadata)
        with contextlib.suppress(OSError):  # what cannot be removed now is removed next time
            self._prune(saved)

    def wait(self) -> None:
        """Returns when everything is on the disk, as it is after ``save``."""

    def close(self) -> None:
        """Nothing to free."""

    def _prune(self, newest: Path) -> None:
        step, _ = checkpoint_order(newest.name)
        others = [path for path in list_checkpoints(self.directory) if path != newest]
        earlier = [path for path in others if checkpoint_order(path.name)[0] < step]
        recent = earlier[max(0, len(earlier) - self._keep + 1) :]
        for path in others:
            if path not in recent and not (path in earlier and self._stays(path)):
                remove_checkpoint(path)

    def _stays(self, path: Path) -> bool:
        if self._keep_every is None:
            return False
        try:
            number = read_manifest(path)["number"]
        except InputError:
            return False
        return bool(number % self._keep_every == 0)


class AsyncCheckpointer:
    """Writes checkpoints in a thread: ``save`` returns once the tensors are copied in memory.

    At most one is being written; the next ``save`` waits for it. An error is raised by the next ``save``, ``wait`` or
    ``close``.

    Args:
        checkpointer: writes the checkpoints, and is used by nothing else.
    """

    def __init__(self, checkpointer: Checkpointer) -> None:
        self._checkpointer = checkpointer
        self._buffers: dict[str, Tensor] = {}
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    @property
    def directory(self) -> Path:
        """The folder of checkpoints."""
        return self._checkpointer.directory

    @property
    def latest(self) -> Path | None:
        """The newest checkpoint that is on the disk."""
        return self._checkpointer.latest

    def save(self, step: int, tensors: Mapping[str, Tensor], metadata: Mapping[str, Json]) -> None:
        """Copies everything and begins to write it; arguments as in ``save_checkpoint``."""
        self.wait()
        frozen: dict[str, Json] = json.loads(render_json(metadata))
        buffers: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            buffer = self._buffers.get(name)  # last time's memory serves again
            if buffer is None or buffer.shape != tensor.shape or buffer.dtype != tensor.dtype:
                buffer = torch.empty(tensor.shape, dtype=tensor.dtype)
            buffers[name] = buffer.copy_(tensor.detach())
        self._buffers = buffers
        self._thread = threading.Thread(target=self._write, args=(step, buffers, frozen), name="checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Returns when the last checkpoint is on the disk; raises the error if it could not be written."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def close(self) -> None:
        """Finishes what is being written, and frees the memory."""
        try:
            self.wait()
        finally:
            self._buffers = {}

    def _write(self, step: int, tensors: State, metadata: Mapping[str, Json]) -> None:
        try:
            self._checkpointer.save(step, tensors, metadata)
        except BaseException as error:
            self._error = error
