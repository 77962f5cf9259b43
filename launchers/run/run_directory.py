"""The folder of a run: its files, its beginning, and the lock of the process that writes to it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from marl.errors import InputError
from marl.files import Json, explain, render_json, write_atomically

RUN_ID: Final = "run_id"
_UNBORN: Final = re.compile(r"\.config\.json\.\d+\.tmp")
"""The rest of a run that was killed at the very moment at which it began."""
_LOCK_PATIENCE: Final = 10.0
"""Seconds that a killed job's last processes may take to end."""


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """A folder with ``config.json``, ``metrics.jsonl``, ``checkpoints/``, ``summary.json`` and a learning curve.

    Made by ``create`` or ``open``; only rank 0 writes to it.
    """

    path: Path

    @classmethod
    def create(cls, path: Path, config: Mapping[str, Json]) -> RunDirectory:
        """Begins a run: makes the folder and writes ``config.json``, with a fresh ``run_id`` in it.

        Raises:
            InputError: there is a run already, the folder has other files, or it cannot be written; then nothing
                was changed.
        """
        path = Path(path)
        if path.exists() and not path.is_dir():
            raise InputError(f"{path} is a file; choose another folder with --out")
        if (path / "config.json").exists():
            raise InputError(f"{path} holds a run already; continue it with --resume or choose another --out")
        made = [folder for folder in (path, *path.parents) if not folder.exists()]
        try:
            if path.is_dir() and any(not _UNBORN.fullmatch(entry.name) for entry in path.iterdir()):
                raise InputError(f"{path} is not empty; choose another --out")
            path.mkdir(parents=True, exist_ok=True)
            for unborn in path.iterdir():
                unborn.unlink()
            write_atomically(path / "config.json", render_json({RUN_ID: secrets.token_hex(4), **config}))
        except OSError as error:
            _remove_empty(made)
            raise InputError(f"cannot make {path}: {explain(error)}") from error
        except InputError:
            _remove_empty(made)
            raise
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> RunDirectory:
        """An existing run.

        Raises:
            InputError: there is none.
        """
        path = Path(path)
        if not path.is_dir():
            raise InputError(f"{path} is not a run: there is no such folder")
        if not (path / "config.json").is_file():
            raise InputError(f"{path} is not a run: it has no config.json")
        return cls(path)

    @property
    def metrics(self) -> Path:
        """The journal, ``metrics.jsonl``."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def learning_curve(self) -> Path:
        """The picture."""
        return self.path / "learning_curve.png"

    @property
    def config(self) -> dict[str, Any]:
        """The content of ``config.json``.

        Raises:
            InputError: it cannot be read, or is not a JSON object.
        """
        return _read_object(self.path / "config.json")

    @property
    def run_id(self) -> str:
        """Eight characters that no other run has; trackers know the run by them."""
        return str(self.config.get(RUN_ID, self.path.name))

    @property
    def summary(self) -> dict[str, Any] | None:
        """The content of ``summary.json``; None while there is none."""
        path = self.path / "summary.json"
        return _read_object(path) if path.exists() else None

    @contextlib.contextmanager
    def locked(self, *, patience: float = _LOCK_PATIENCE) -> Iterator[None]:
        """Holds the run for this process: two that write to one run would ruin it.

        The lock is on the folder itself, leaves no file, and goes with the process, however it ends.

        Args:
            patience: seconds to wait for a process that is about to end.

        Raises:
            InputError: another process holds it.
        """
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            deadline = time.monotonic() + patience
            while not _try_lock(descriptor):
                if time.monotonic() > deadline:
                    raise InputError(f"another process is at work on {self.path}; stop it first")
                time.sleep(0.1)
            yield
        finally:
            os.close(descriptor)

    def write_config(self, config: Mapping[str, Json]) -> None:
        """Replaces the configuration (a resumed run may have more steps); the ``run_id`` stays."""
        write_atomically(self.path / "config.json", render_json({**config, RUN_ID: self.run_id}))

    def write_summary(self, summary: Mapping[str, Json]) -> None:
        """Writes or replaces ``summary.json``."""
        write_atomically(self.path / "summary.json", render_json(summary))


def default_run_path(algorithm: str, env: str, seed: int, *, root: Path = Path("runs")) -> Path:
    """``runs/ALGORITHM-ENV-seedSEED-TIME``, in letters that every file system takes, and not there yet."""
    name = re.sub(r"[^A-Za-z0-9_.]+", "-", f"{algorithm}-{env}-seed{seed}") + f"-{datetime.now():%Y%m%d-%H%M%S}"
    path, tries = root / name, 1
    while path.exists():
        tries += 1
        path = root / f"{name}-{tries}"
    return path


def _read_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path} is damaged: it is not JSON") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} is damaged: it is not a JSON object")
    return value


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # some network file systems know no such locks
        return True
    return True


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()
