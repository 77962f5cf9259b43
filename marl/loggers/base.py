"""The interface of loggers, and loggers that pass rows on to other loggers, or to none."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping


class Logger(ABC):
    """A destination of rows of metrics."""

    @abstractmethod
    def write(self, row: Mapping[str, float]) -> None:
        """Writes one row; keys may differ from row to row."""

    def close(self) -> None:
        """Flushes and frees resources."""


class NullLogger(Logger):
    """Drops everything; for ranks other than 0."""

    def write(self, row: Mapping[str, float]) -> None:
        pass


class MultiLogger(Logger):
    """Passes every row to several loggers, in order."""

    def __init__(self, loggers: Iterable[Logger]) -> None:
        self.loggers = tuple(loggers)

    def write(self, row: Mapping[str, float]) -> None:
        for logger in self.loggers:
            logger.write(row)

    def close(self) -> None:
        """Closes all of them; if one raises, the others are closed first."""
        error: BaseException | None = None
        for logger in self.loggers:
            try:
                logger.close()
            except BaseException as raised:
                error = error or raised
        if error is not None:
            raise error


class OnlyNewer(Logger):
    """Passes on rows in which some metric is greater than in all before; a row without any of them counts as newer.

    Args:
        logger: takes these rows.
        keys: the metrics' names.
    """

    def __init__(self, logger: Logger, *keys: str) -> None:
        self._logger = logger
        self._greatest = dict.fromkeys(keys, float("-inf"))

    def write(self, row: Mapping[str, float]) -> None:
        found = {key: row[key] for key in self._greatest if key in row}
        if not found or any(value > self._greatest[key] for key, value in found.items()):
            self._greatest |= {key: max(value, self._greatest[key]) for key, value in found.items()}
            self._logger.write(row)

    def close(self) -> None:
        self._logger.close()
