"""Files that are either there and whole, or not there: writing to disk so that a killed process loses nothing."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from marl.errors import InputError

Json = bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"] | None
"""A JSON value. Numbers that are not finite are kept too, written as Python writes them."""


def render_json(value: Json) -> bytes:
    """Renders a JSON file as this project writes them all: sorted keys, one entry a line."""
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n"


def write_durably(path: Path, chunks: Iterable[bytes | memoryview]) -> tuple[int, str]:
    """Writes a new file and waits until the disk has it.

    Args:
        path: must not exist.
        chunks: its content, one after the other.

    Returns:
        Its size in bytes and its SHA-256.

    Raises:
        OSError: the disk is full, or the like. What was written stays; the caller removes it.
    """
    digest, size = hashlib.sha256(), 0
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        for chunk in chunks:
            view = memoryview(chunk).cast("B")
            digest.update(view)
            size += len(view)
            write_all(descriptor, view)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return size, digest.hexdigest()


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """``os.write`` until everything is written; one call, where the system takes everything at once."""
    view = memoryview(data)
    while len(view):
        view = view[os.write(descriptor, view) :]


def sync_directory(path: Path) -> None:
    """Waits until the disk has a directory's entries (names made, renamed or removed in it)."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems sync on rename
            raise
    finally:
        os.close(descriptor)


def write_atomically(path: Path, data: bytes) -> None:
    """Writes or replaces a small file: at every moment it is the old one or the new one, never a part.

    Raises:
        InputError: the disk is full, read-only, or the like; the old file is as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        write_durably(temporary, [data])
        os.replace(temporary, path)
        sync_directory(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise InputError(f"cannot write {path}: {explain(error)}") from error


def explain(error: OSError) -> str:
    """The system's message, with the way out where it is known."""
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{reason}; free some space, or choose another place with --out"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{reason}; choose a place that you may write to with --out"
    return reason


@contextlib.contextmanager
def reported_as_input_error(action: str) -> Iterator[None]:
    """Turns an OSError into ``cannot ACTION: why``, an InputError."""
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot {action}: {explain(error)}") from error
