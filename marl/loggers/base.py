"""The interface of loggers, and loggers that are made of other loggers."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping


class Logger(ABC):
    """A destination of rows of metrics."""

    @abstractmethod
    def write(self, row: Mapping[str, float]) -> None:
        """Writes one row; keys may differ from row to row."""

    def close(self) -> None:
        """Flushes and frees resources."""


class NullLogger(Logger):
    """Forgets everything: what ranks other than 0 write to."""

    def write(self, row: Mapping[str, float]) -> None:
        """Does nothing."""


class MultiLogger(Logger):
    """Hands every row to several loggers, in order."""

    def __init__(self, loggers: Iterable[Logger]) -> None:
        self.loggers = tuple(loggers)

    def write(self, row: Mapping[str, float]) -> None:
        """Hands the row on."""
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


class EveryNth(Logger):
    """Hands on the first row and every n-th after it."""

    def __init__(self, logger: Logger, n: int) -> None:
        self._logger = logger
        self._n = n
        self._count = 0

    def write(self, row: Mapping[str, float]) -> None:
        """Hands the row on when it is its turn."""
        if self._count % self._n == 0:
            self._logger.write(row)
        self._count += 1

    def close(self) -> None:
        """Closes the logger behind."""
        self._logger.close()


class AtMostEvery(Logger):
    """Hands on the first row, then one in so many seconds at most, and the last one when closed.

    Rows that wait are merged, so that a figure which is not in every row is not lost; newer values win.
    """

    def __init__(self, logger: Logger, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._logger = logger
        self._seconds = seconds
        self._clock = clock
        self._next = float("-inf")
        self._waiting: dict[str, float] = {}

    def write(self, row: Mapping[str, float]) -> None:
        """Hands the row on, or keeps it until the time has come."""
        self._waiting.update(row)
        now = self._clock()
        if now >= self._next:
            self._next = now + self._seconds
            self._hand_on()

    def close(self) -> None:
        """Hands on what waits, and closes the logger behind."""
        if self._waiting:
            self._hand_on()
        self._logger.close()

    def _hand_on(self) -> None:
        row, self._waiting = self._waiting, {}
        self._logger.write(row)


class OnlyNewer(Logger):
    """Hands on rows in which one figure is greater than in all before; a row without it counts as newer.

    Args:
        logger: takes them.
        key: the figure's name.
    """

    def __init__(self, logger: Logger, key: str) -> None:
        self._logger = logger
        self._key = key
        self._greatest = float("-inf")

    def write(self, row: Mapping[str, float]) -> None:
        """Hands the row on, unless its like was there before."""
        value = row.get(self._key)
        if value is None or value > self._greatest:
            self._greatest = self._greatest if value is None else value
            self._logger.write(row)

    def close(self) -> None:
        """Closes the logger behind."""
        self._logger.close()
