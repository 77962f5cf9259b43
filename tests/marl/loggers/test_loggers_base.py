import math

import pytest

from marl.loggers import MultiLogger, NullLogger, OnlyNewer
from marl.loggers.base import Logger


class ListLogger(Logger):
    def __init__(self, error=None):
        self.rows, self.closed, self.error = [], False, error

    def write(self, row):
        self.rows.append(dict(row))

    def close(self):
        self.closed = True
        if self.error is not None:
            raise self.error


def test_all_loggers_of_a_multi_logger_get_each_row_and_are_closed_even_if_one_fails():
    loggers = [ListLogger(), ListLogger(OSError("broken")), ListLogger()]
    multi = MultiLogger([*loggers, NullLogger()])
    multi.write({"a": 1.0})
    with pytest.raises(OSError, match="broken"):
        multi.close()
    assert all(logger.rows == [{"a": 1.0}] and logger.closed for logger in loggers)


def test_a_tracker_is_told_once_of_what_is_done_twice():
    told = []

    class Tracker:
        def write(self, row):
            told.append(row["env_steps"])

        def close(self):
            told.append(math.inf)

    logger = OnlyNewer(Tracker(), "env_steps")
    for steps in (16, 32, 48, 32, 48, 64):
        logger.write({"env_steps": steps})
    logger.close()
    assert told == [16, 32, 48, 64, math.inf]


def test_the_last_row_is_newer_by_what_it_alone_has():
    told = []

    class Tracker(ListLogger):
        def write(self, row):
            told.append(row)

    logger = OnlyNewer(Tracker(), "env_steps", "final")
    rows = [{"env_steps": 16}, {"env_steps": 16, "final": 16}, {"env_steps": 32}, {"env_steps": 32, "final": 32}]
    for row in (*rows, rows[1], rows[3], rows[2]):
        logger.write(row)
    assert told == rows
