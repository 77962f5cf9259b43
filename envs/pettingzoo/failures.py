"""Environments that raise: their copy begins anew, unless that happens too often."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from typing import Any

from marl.envs.pettingzoo.rows import brief
from marl.errors import InputError

_LOG = logging.getLogger("marl")
_LOGGED = 3
"""So many failures are logged; the others are only counted."""


class Failures:
    """Counts, for each copy, the episodes in a row that an exception of the environment ended.

    Args:
        num_envs: number of copies, E.
        limit: number in a row that is tolerated; 0 to let the first exception pass through.
        first_env: global index of the first copy, for messages.
    """

    def __init__(self, num_envs: int, limit: int, first_env: int = 0) -> None:
        self._in_a_row = [0] * num_envs
        self._limit = limit
        self._first_env = first_env
        self._logged = 0

    def note(self, copy: int, error: Exception) -> None:
        """Counts one; to be called while the exception is handled.

        Raises:
            InputError: there were too many in a row.
            Exception: the error itself, where none is tolerated.
        """
        if self._limit == 0:
            raise error
        self._in_a_row[copy] += 1
        what = f"{type(error).__name__}: {brief(error)}"
        frames = traceback.extract_tb(error.__traceback__)
        where = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
        number = self._first_env + copy
        if self._in_a_row[copy] > self._limit:
            raise InputError(
                f"copy {number} of the environment failed in {self._in_a_row[copy]} episodes in a row, the last time "
                f"with {what}{where}; --env-failures 0 shows the whole traceback"
            ) from error
        if self._logged < _LOGGED:
            self._logged += 1
            _LOG.warning("marl: copy %d of the environment raised %s%s; its episode is dropped", number, what, where)

    def forget(self, copy: int) -> None:
        """Starts counting anew: an episode of the copy came to its own end."""
        self._in_a_row[copy] = 0

    def reset_with_retry(self, copy: int, reset: Callable[[], Any]) -> Any:
        """Calls the copy's reset, once more after an exception, and returns what it returns."""
        while True:
            try:
                return reset()
            except Exception as error:
                self.note(copy, error)
