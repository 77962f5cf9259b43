"""The file of a tournament's games."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Final

from marl.errors import InputError
from marl.files import explain, write_all, write_atomically
from marl.games.game import Forfeit, PlayedGame

_FIELDS: Final = tuple(field.name for field in fields(PlayedGame))
_NAMES: Final = frozenset(_FIELDS)


class GamesFile:
    """``games.jsonl``: one game a line, appended by any number of processes, each batch of games with one call.

    A writer that was killed may leave a part of a line; it is closed off by the next writer and skipped by readers.

    Args:
        path: the file; made by the first append.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, games: Iterable[PlayedGame]) -> None:
        """Adds games; when it returns, a killed process cannot lose them.

        Raises:
            InputError: the disk is full, or the like; nothing was added.
        """
        data = b"".join(_line(game) for game in games)
        try:
            with self._locked() as descriptor:
                size = os.fstat(descriptor).st_size
                if size and os.pread(descriptor, 1, size - 1) != b"\n":
                    data = b"\n" + data
                try:
                    write_all(descriptor, data)
                except OSError:
                    os.ftruncate(descriptor, size)
                    raise
        except OSError as error:
            raise InputError(f"cannot write {self.path}: {explain(error)}") from error

    def read(self) -> dict[int, PlayedGame]:
        """The games by number; of two lines about the same game the first counts, and damaged lines are skipped."""
        games: dict[int, PlayedGame] = {}
        try:
            lines = self.path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise InputError(f"cannot read {self.path}: {explain(error)}") from error
        for line in lines:
            game = _game(line)
            if game is not None:
                games.setdefault(game.index, game)
        return games

    def count(self) -> int:
        """Number of lines so far."""
        return self.path.read_bytes().count(b"\n") if self.path.exists() else 0

    def rewrite(self, games: Mapping[int, PlayedGame]) -> None:
        """Replaces the file by these games in the order of their numbers, if it is not that already."""
        data = b"".join(_line(games[index]) for index in sorted(games))
        if not self.path.exists() or self.path.read_bytes() != data:
            write_atomically(self.path, data)

    @contextmanager
    def _locked(self) -> Iterator[int]:
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        try:
            # Appending is atomic on local file systems; the lock makes it so on those of a network.
            fcntl.lockf(descriptor, fcntl.LOCK_EX)
            yield descriptor
        finally:
            os.close(descriptor)


def _line(game: PlayedGame) -> bytes:
    # What asdict does, without its copies: a tournament has thousands of games.
    row = {name: getattr(game, name) for name in _FIELDS}
    row["forfeits"] = [asdict(forfeit) for forfeit in game.forfeits]
    return json.dumps(row, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"


def _game(line: bytes) -> PlayedGame | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    if not isinstance(row, dict) or row.keys() != _NAMES:
        return None
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
    values["forfeits"] = tuple(Forfeit(**forfeit) for forfeit in row["forfeits"])
    return PlayedGame(**values)
