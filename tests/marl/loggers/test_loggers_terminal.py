import io
import math
import os

import pytest

from marl.loggers import TerminalLogger


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


METRICS = {
    "env_steps": 25_000,
    "updates": 8,
    "env_steps_per_second": 5_000.0,
    "wall_seconds": 5.0,
    "episode_return/mean": -45.125,
    "episode_return/agent_0": -15.5,
    "episode_return/agent_1": -29.625,
    "value_loss": 0.125,
}


@pytest.fixture
def plain(monkeypatch):
    monkeypatch.setenv("MARL_TERMINAL", "0")


@pytest.fixture
def live(monkeypatch):
    monkeypatch.setenv("MARL_TERMINAL", "1")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("LINES", "30")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)


def test_plain_lines_come_at_a_sane_rate_but_always_first_and_last(plain):
    stream, clock = io.StringIO(), Clock()
    logger = TerminalLogger(100_000, title="mappo", stream=stream, clock=clock)
    for index in range(100):
        clock.now = index * 0.1
        logger.write({**METRICS, "env_steps": 1000 * index})
    logger.close()
    lines = stream.getvalue().splitlines()
    assert lines[0] == "mappo"
    assert "0/100,000 steps" in lines[1]
    assert "99,000/100,000 steps" in lines[-1]
    assert len(lines) == 1 + 5 + 1
    assert "\x1b" not in stream.getvalue()


def test_a_plain_line_says_all_that_matters(plain):
    stream = io.StringIO()
    logger = TerminalLogger(100_000, stream=stream)
    logger.write({**METRICS, "evaluation/return_mean": -38.0, "evaluation/return_ci95": 0.5})
    logger.close()
    (line,) = stream.getvalue().splitlines()
    for part in (
        "25%",
        "25,000/100,000 steps",
        "5,000 steps/s",
        "0:00:15 left",
        "return -45.12",
        "evaluation -38.00 ± 0.500 at 25,000 steps",
        "value_loss 0.125",
    ):
        assert part in line


def test_an_evaluation_is_printed_at_once(plain):
    stream, clock = io.StringIO(), Clock()
    logger = TerminalLogger(100_000, stream=stream, clock=clock)
    logger.write(METRICS)
    logger.write(METRICS)
    logger.write({"evaluation/return_mean": -38.0})
    logger.close()
    assert len(stream.getvalue().splitlines()) == 2


def test_a_stream_that_is_no_terminal_gets_plain_lines(monkeypatch):
    monkeypatch.delenv("MARL_TERMINAL", raising=False)
    stream = io.StringIO()
    logger = TerminalLogger(100, stream=stream)
    logger.write({"env_steps": 1})
    logger.close()
    assert "\x1b" not in stream.getvalue()


@pytest.mark.parametrize("size", [None, os.terminal_size((70, 20))])
def test_under_open_mpi_what_mpirun_writes_to_decides(monkeypatch, size):
    class PseudoTerminal(io.StringIO):
        def isatty(self):
            return True  # as Open MPI makes it, even if its own output goes to a file

    for name in ("MARL_TERMINAL", "COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    monkeypatch.setattr("marl.loggers.terminal._mpirun_size", lambda: size)
    stream = PseudoTerminal()
    logger = TerminalLogger(100_000, stream=stream)
    logger.write(METRICS)
    logger.close()
    assert ("\x1b" in stream.getvalue()) == (size is not None)


def test_without_a_logged_rate_the_rate_is_measured(plain):
    stream, clock = io.StringIO(), Clock()
    logger = TerminalLogger(1000, stream=stream, clock=clock)
    logger.write({"env_steps": 100})
    clock.now = 10.0
    logger.write({"env_steps": 600})
    logger.close()
    first, second = stream.getvalue().splitlines()
    assert "0 steps/s  -:--:-- left" in first
    assert "50 steps/s  0:00:08 left" in second


def test_odd_figures_do_not_disturb_the_view(plain):
    stream = io.StringIO()
    logger = TerminalLogger(0, stream=stream)
    logger.write({"env_steps": 0, "env_steps_per_second": math.nan, "loss": math.inf, "x": 1e-9, "y": -1e9})
    logger.write({})
    logger.close()
    assert "loss inf" in stream.getvalue()


def test_the_live_view_shows_bar_rate_returns_and_evaluation_and_keeps_the_cursor(live):
    stream, clock = io.StringIO(), Clock()
    logger = TerminalLogger(100_000, title="mappo on spread", stream=stream, clock=clock)
    logger.write({**METRICS, "evaluation/return_mean": -38.0, "evaluation/return_ci95": 0.5})
    clock.now = 0.1
    before = len(stream.getvalue())
    logger.write({**METRICS, "value_loss": 0.375})
    assert len(stream.getvalue()) == before  # too soon
    logger.close()
    text = stream.getvalue()
    assert "\x1b" in text
    for part in ("mappo on spread", "━", "25%", "5,000 steps/s", "agent_0 -15.50", "-38.00 ± 0.500", "0.375"):
        assert part in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
    for line in text.splitlines():
        assert "Traceback" not in line


def test_a_hundred_agents_do_not_fill_the_screen(live):
    stream = io.StringIO()
    logger = TerminalLogger(100_000, stream=stream)
    logger.write({**METRICS, **{f"episode_return/agent_{index}": float(index) for index in range(100)}})
    logger.close()
    assert "and 84 more" in stream.getvalue()


def test_the_live_view_fits_a_narrow_terminal(live, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    stream = io.StringIO()
    logger = TerminalLogger(100_000, title="a very long title that has no room", stream=stream)
    logger.write(METRICS)
    logger.close()


def told(logger, clock):
    logger.write({**METRICS, "env_steps": 100_000})
    for second in range(13):
        clock.now = float(second)
        logger.tell("greedy evaluation", second, 100)
    logger.tell("sampled evaluation", 0, 100)
    logger.close()


def test_long_work_between_rows_is_told_every_few_seconds(plain):
    stream, clock = io.StringIO(), Clock()
    told(TerminalLogger(100_000, stream=stream, clock=clock), clock)
    assert stream.getvalue().splitlines()[1:] == ["greedy evaluation: 5 of 100", "greedy evaluation: 10 of 100"]


def test_long_work_is_part_of_the_live_view(live):
    stream, clock = io.StringIO(), Clock()
    logger = TerminalLogger(100_000, stream=stream, clock=clock)
    told(logger, clock)
    assert "greedy evaluation: 12 of 100" in stream.getvalue()
    logger.write(METRICS)
    assert not logger._work.text
