"""The folder of a run: its files, its beginning, and the lock of the process that writes to it."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import re
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from marl.errors import InputError
from marl.files import Json, explain, render_json, reported_as_input_error, write_atomically

RUN_ID: Final = "run_id"
_UNBORN: Final = re.compile(r"\.config\.json\.\d+\.tmp")
"""The rest of a run that was killed at the very moment at which it began."""
_LOCK_PATIENCE: Final = 10.0
"""Seconds that a killed job's last processes may take to end."""


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """A folder with ``config.json``, ``metrics.jsonl``, ``checkpoints/``, ``summary.json`` and a learning curve.

    Made by ``create`` or ``claimed``, or opened by ``open``; only rank 0 writes to it, while it holds the lock.
    """

    path: Path

    @classmethod
    @contextlib.contextmanager
    def claimed(cls, path: Path) -> Iterator[RunDirectory]:
        """Holds a folder, made where it is missing, in which ``begin`` may begin a run.

        At the end the folders that were made go again, if no run was begun.

        Raises:
            InputError: there is a run already, or another process is about to begin one, the folder has other files,
                or it cannot be made; then nothing was changed.
        """
        path = Path(path)
        _refuse_occupied(path)
        made = [folder for folder in (path, *path.parents) if not folder.exists()]
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            _remove_empty(made)
            raise InputError(f"cannot make {path}: {explain(error)}") from error
        run = cls(path)
        with run.locked():
            try:
                _refuse_occupied(path)  # another process may have come first
                yield run
            finally:
                _remove_empty(made)

    def begin(self, config: Mapping[str, Json]) -> None:
        """Writes ``config.json``, with a fresh ``run_id`` in it, into a folder that is claimed."""
        for unborn in self.path.iterdir():
            unborn.unlink()
        write_atomically(self.path / "config.json", render_json({RUN_ID: secrets.token_hex(4), **config}))

    @classmethod
    def create(cls, path: Path, config: Mapping[str, Json]) -> RunDirectory:
        """Begins a run, without holding it any longer; errors as in ``claimed``."""
        with cls.claimed(path) as run:
            run.begin(config)
        return run

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
            InputError: another process holds it, or has removed it.
        """
        with reported_as_input_error(f"open {self.path}"):
            descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            deadline = time.monotonic() + patience
            while not _try_lock(descriptor):
                if time.monotonic() > deadline:
                    raise InputError(f"another process is at work on {self.path}; stop it first")
                time.sleep(0.1)
            if not _is_at(self.path, descriptor):
                raise InputError(f"another process has removed {self.path} meanwhile; try again")
            yield
        finally:
            os.close(descriptor)

    def write_config(self, config: Mapping[str, Json]) -> None:
        """Replaces the configuration (a resumed run may have more steps); the ``run_id`` stays."""
        write_atomically(self.path / "config.json", render_json({**config, RUN_ID: self.run_id}))

    def write_summary(self, summary: Mapping[str, Json]) -> None:
        """Writes or replaces ``summary.json``."""
        write_atomically(self.path / "summary.json", render_json(summary))


@contextlib.contextmanager
def new_run_path(algorithm: str, env: str, seed: int, *, root: Path = Path("runs")) -> Iterator[Path]:
    """A new folder ``runs/ALGORITHM-ENV-seedSEED-TIME``, in letters that every file system takes.

    It is made here and now, so that no other run gets its name however many begin in one second; at the end it goes
    again if it is still empty.

    Raises:
        InputError: it cannot be made.
    """
    root = root.absolute()
    name = re.sub(r"[^A-Za-z0-9_.]+", "-", f"{algorithm}-{env}-seed{seed}") + f"-{datetime.now():%Y%m%d-%H%M%S}"
    made = [folder for folder in (root, *root.parents) if not folder.exists()]
    try:
        path = _make_first(root / (name if number == 1 else f"{name}-{number}") for number in itertools.count(1))
    except OSError as error:
        _remove_empty(made)
        raise InputError(f"cannot make a folder in {root}: {explain(error)}") from error
    try:
        yield path
    finally:
        _remove_empty([path, *made])


def _make_first(paths: Iterable[Path]) -> Path:
    """Makes the first of these folders that is not there yet."""
    for path in paths:
        with contextlib.suppress(FileExistsError):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.mkdir()
            return path
    raise FileExistsError


def _refuse_occupied(path: Path) -> None:
    """InputError where a folder has anything in it but the rest of a run that was killed as it began."""
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file; choose another folder with --out")
    if (path / "config.json").exists():
        raise InputError(f"{path} holds a run already; continue it with --resume or choose another --out")
    try:
        others = path.is_dir() and any(not _UNBORN.fullmatch(entry.name) for entry in path.iterdir())
    except OSError as error:
        raise InputError(f"cannot make {path}: {explain(error)}") from error
    if others:
        raise InputError(f"{path} is not empty; choose another --out")


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


def _is_at(path: Path, descriptor: int) -> bool:
    """Returns whether a path still leads to the folder that is open."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()
