"""The journal: ``metrics.jsonl``, one JSON object a line, only appended to; other trackers are refilled from it."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from marl.errors import InputError
from marl.files import explain, sync_directory, write_all
from marl.loggers.base import Logger


class JournalLogger(Logger):
    """Appends every row to a file, with one system call a row: a killed process leaves whole rows.

    A number that is not finite is written as ``null``, with its key kept, so that every JSON reader can read the
    file; ``read_journal`` reads it as NaN.

    Args:
        path: the file; made if it is not there. An unfinished last line, which a full disk or a power cut can
            leave, is removed.

    Raises:
        InputError: the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        try:
            fresh = not self.path.exists()
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
            if fresh:
                sync_directory(self.path.parent)
        except OSError as error:
            raise InputError(f"cannot write {self.path}: {explain(error)}") from error
        self._cut(updates=None)

    def write(self, row: Mapping[str, float]) -> None:
        """Appends a row.

        Raises:
            InputError: the disk is full, or the like; nothing of the row is left in the file.
        """
        line = (
            json.dumps({key: plain_number(value) for key, value in row.items()}, separators=(",", ":")).encode() + b"\n"
        )
        try:
            write_all(self._descriptor, line)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, self._size)
            raise InputError(f"cannot write {self.path}: {explain(error)}") from error
        self._size += len(line)

    def truncate_after(self, updates: int, *, repeated: str | None = None) -> int:
        """Cuts the file back to a checkpoint, so that a resumed run continues it without a gap or a repeat.

        Args:
            updates: the checkpoint's count of updates; the first row with more, and all behind it, are removed.
            repeated: a metric that only rows of that count have that will be written once more, and are removed.

        Returns:
            How many rows stay.
        """
        return self._cut(updates=updates, repeated=repeated)

    def sync(self) -> None:
        """Waits until the disk has all rows; to be called before a checkpoint is written."""
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            raise InputError(f"cannot write {self.path}: {explain(error)}") from error

    def close(self) -> None:
        """Flushes to the disk and closes the file; a second call does nothing."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            try:
                os.fsync(descriptor)
            except OSError as error:
                raise InputError(f"cannot write {self.path}: {explain(error)}") from error
            finally:
                os.close(descriptor)

    def _cut(self, *, updates: int | None, repeated: str | None = None) -> int:
        end = rows = 0
        with open(self.path, "rb") as file:
            for line in file:
                row = _parse(line)
                if row is None:
                    break
                if updates is not None and row.get("updates", 0) > updates:
                    break
                if repeated in row and row.get("updates") == updates:
                    break
                end += len(line)
                rows += 1
            size = file.seek(0, os.SEEK_END)
            file.seek(end)
            if updates is None and any(_parse(line) is not None for line in file):
                raise InputError(
                    f"{self.path} is damaged or not a journal: line {rows + 1} is not a JSON object; mend or move it"
                )
        if end < size:
            try:
                os.ftruncate(self._descriptor, end)
                os.fsync(self._descriptor)
            except OSError as error:
                raise InputError(f"cannot write {self.path}: {explain(error)}") from error
        self._size = end
        return rows


def read_journal(path: Path) -> Iterator[dict[str, float]]:
    """The rows of a journal, also of one that is being written; ``null`` becomes NaN.

    Raises:
        InputError: the file is not there, or a line other than the last is not a JSON object.
    """
    try:
        file = open(path, "rb")  # noqa: SIM115 (closed below, when the reader stops)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    with file:
        bad: int | None = None
        for number, line in enumerate(file, 1):
            if bad is not None:
                raise InputError(f"{path} is damaged: line {bad} is not a JSON object")
            row = _parse(line)
            if row is None:
                bad = number
            else:
                yield row


def _parse(line: bytes) -> dict[str, float] | None:
    """One row; None for a line that is unfinished or something else."""
    if not line.endswith(b"\n"):
        return None
    try:
        row = json.loads(line)
    except ValueError:
        return None
    if not isinstance(row, dict):
        return None
    return {key: math.nan if value is None else value for key, value in row.items()}


def plain_number(value: float) -> float | None:
    """Returns an int as it is, and other numbers as a float, or None where they are not finite."""
    if isinstance(value, int):
        return int(value)
    number = float(value)
    return number if math.isfinite(number) else None
