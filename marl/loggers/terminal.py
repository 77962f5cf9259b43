"""Progress of a run for people: a live view, or plain lines where there is no terminal."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, TextIO

from marl.loggers.base import Logger
from marl.resources.streams import is_terminal

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live


_RETURN = "episode_return/"
_EVALUATION = "evaluation/"
_COUNTS = frozenset({"env_steps", "updates", "episodes", "wall_seconds", "env_steps_per_second", "memory_mb"})
_MOST_METRICS = 16
_WORK_SECONDS = 5.0
"""Least time between plain lines about work that takes long."""


class TerminalLogger(Logger):
    """Shows progress: a bar with the time left, env steps/s, returns, losses and the newest evaluation.

    ``mpirun`` stands between a rank and the terminal. A launcher that knows of a terminal behind it says so with
    ``MARL_TERMINAL=1`` and ``COLUMNS``; ``MARL_TERMINAL=0`` asks for plain lines. Without a hint, what counts is the
    stream, or under Open MPI what mpirun itself writes to.

    Args:
        total_steps: environment steps of the whole run.
        title: the first line.
        stream: stdout by default.
        plain_seconds: at most one plain line in so many seconds, but for the first, the last, and evaluations.
        live_seconds: the live view changes at most this often.
        clock: seconds that never go back; ``time.monotonic`` but in tests.
    """

    def __init__(
        self,
        total_steps: int,
        *,
        title: str = "",
        stream: TextIO | None = None,
        plain_seconds: float = 2.0,
        live_seconds: float = 0.25,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total = total_steps
        self._title = title
        self._stream: TextIO | None = stream if stream is not None else sys.stdout
        self._clock = clock
        self._metrics: dict[str, float] = {}
        self._first: tuple[float, float] | None = None  # time and env steps of the first row
        self._evaluated_at = 0.0
        self._next = -math.inf
        self._unseen = False
        self._work = WorkLine(clock, seconds=live_seconds if _is_terminal(self._stream) else _WORK_SECONDS)
        self._live: Live | None = None
        is_live = _is_terminal(self._stream)
        self._seconds = live_seconds if is_live else plain_seconds
        if is_live:
            self._live = self._start_live(redirect=stream is None)
        elif title:
            self._print(title)

    def write(self, row: Mapping[str, float]) -> None:
        """Takes one row, and shows it if one is due."""
        now = self._clock()
        evaluated = any(key.startswith(_EVALUATION) for key in row)
        self._metrics.update(row)
        self._work.text = ""
        if self._first is None:
            self._first = now, self._steps
        if evaluated:
            self._evaluated_at = self._steps
        self._unseen = True
        if now >= self._next or evaluated:
            self._next = now + self._seconds
            self._show()

    def tell(self, what: str, done: int, total: int) -> None:
        """Shows how far an evaluation, or other work between updates, has got, once it takes long."""
        if self._work.tell(what, done, total):
            if self._live is not None:
                self._live.update(self._view(), refresh=True)
            else:
                self._print(self._work.text)

    def close(self) -> None:
        """Shows the last row, if it was not shown, and leaves the terminal as it was."""
        if self._unseen:
            self._show()
        if self._live is not None:
            live, self._live = self._live, None
            live.stop()

    @property
    def _steps(self) -> float:
        return self._metrics.get("env_steps", 0)

    def _rate(self) -> float:
        """Env steps a second: as logged, else as measured since the first row."""
        if "env_steps_per_second" in self._metrics:
            return self._metrics["env_steps_per_second"]
        if self._first is None or self._clock() <= self._first[0]:
            return 0.0
        return (self._steps - self._first[1]) / (self._clock() - self._first[0])

    def _seconds_left(self) -> float | None:
        rate = self._rate()
        return max(self._total - self._steps, 0) / rate if math.isfinite(rate) and rate > 0 else None

    def _returns(self) -> list[tuple[str, float]]:
        return [
            (key.removeprefix(_RETURN), value)
            for key, value in self._metrics.items()
            if key.startswith(_RETURN) and key != f"{_RETURN}mean"
        ]

    def _losses(self) -> list[tuple[str, float]]:
        return [
            (key, value)
            for key, value in self._metrics.items()
            if key not in _COUNTS and not key.startswith((_RETURN, _EVALUATION))
        ]

    def _evaluation(self) -> str:
        mean = self._metrics.get(f"{_EVALUATION}return_mean")
        if mean is None:
            return ""
        interval = self._metrics.get(f"{_EVALUATION}return_ci95")
        spread = "" if interval is None else f" ± {_number(interval)}"
        return f"{_number(mean)}{spread} at {self._evaluated_at:,.0f} steps"

    def _show(self) -> None:
        self._unseen = False
        if self._live is not None:
            self._live.update(self._view(), refresh=True)
        else:
            self._print(self._line())

    def _print(self, line: str) -> None:
        if self._stream is not None:  # as standard output may be
            self._stream.write(line + "\n")
            self._stream.flush()

    def _line(self) -> str:
        left = self._seconds_left()
        parts = [
            f"{self._percent():3.0f}%",
            f"{self._steps:,.0f}/{self._total:,} steps",
            f"{self._rate():,.0f} steps/s",
            f"{_duration(left)} left",
        ]
        if (mean := self._metrics.get(f"{_RETURN}mean")) is not None:
            parts.append(f"return {_number(mean)}")
        if (evaluation := self._evaluation()) and self._evaluated_at == self._steps:
            parts.append(f"evaluation {evaluation}")
        parts += _some(self._losses(), 6)
        return "  ".join(parts)

    def _percent(self) -> float:
        return 100.0 * min(self._steps / self._total, 1.0) if self._total > 0 else 100.0

    def _start_live(self, *, redirect: bool) -> Live:
        from rich.console import Console
        from rich.live import Live

        size = _mpirun_size() if _is_rank() and "COLUMNS" not in os.environ else None
        console = Console(
            file=self._stream,
            force_terminal=True,
            highlight=False,
            width=size.columns if size is not None and size.columns > 0 else None,  # else COLUMNS, or as it is
        )
        # No thread of its own: the view changes when a row comes, and costs nothing in between.
        live = Live(
            self._view(), console=console, auto_refresh=False, redirect_stdout=redirect, redirect_stderr=redirect
        )
        live.start()
        console.show_cursor(True)  # else a killed run would leave a terminal without one
        return live

    def _view(self) -> RenderableType:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        left = self._seconds_left()
        elapsed = self._metrics.get("wall_seconds")
        head = Table.grid(padding=(0, 2, 0, 0), expand=True)
        head.add_column(ratio=1)
        for _ in range(4):
            head.add_column(no_wrap=True, justify="right")
        head.add_row(
            ProgressBar(total=100.0, completed=self._percent()),
            Text(f"{self._percent():.0f}%", style="bold"),
            Text(f"{self._steps:,.0f}/{self._total:,} steps"),
            Text(f"{self._rate():,.0f} steps/s", style="cyan"),
            Text(f"{_duration(elapsed)} · {_duration(left)} left", style="dim"),
        )
        body = Table.grid(padding=(0, 2, 0, 0))
        body.add_column(no_wrap=True, style="dim")
        body.add_column()
        if (mean := self._metrics.get(f"{_RETURN}mean")) is not None:
            text = Text(_number(mean), style="bold green")
            text.append(
                "".join(f"   {part}" for part in _some(self._returns(), _MOST_METRICS)), style="not bold default"
            )
            body.add_row("return", text)
        if evaluation := self._evaluation():
            body.add_row("evaluation", Text(evaluation, style="bold magenta"))
        if self._work.text:
            body.add_row("now", Text(self._work.text))
        if losses := self._losses():
            body.add_row("update", Text("   ".join(_some(losses, _MOST_METRICS))))
        title = [Text(self._title, style="bold", no_wrap=True, overflow="ellipsis")] if self._title else []
        return Group(*title, head, body)


class WorkLine:
    """A line about work that takes long: at most one in so many seconds, and none before.

    Args:
        clock: seconds that never go back.
        seconds: between lines.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, seconds: float = _WORK_SECONDS) -> None:
        self._clock, self._seconds = clock, seconds
        self._what = ""
        self._next = 0.0
        self.text = ""
        """The newest line; empty where none was due yet."""

    def tell(self, what: str, done: int, total: int) -> bool:
        """Takes what is done, how much of it, and of how much; returns whether a new line is due."""
        now = self._clock()
        if what != self._what:
            self._what, self._next, self.text = what, now + self._seconds, ""
        if now < self._next:
            return False
        self._next = now + self._seconds
        self.text = f"{what}: {done:,} of {total:,}" if total else f"{what}: {done:,}"
        return True


def _is_terminal(stream: TextIO | None) -> bool:
    hint = os.environ.get("MARL_TERMINAL")
    if hint in ("0", "1"):
        return hint == "1"
    if not is_terminal(stream) or os.environ.get("TERM") == "dumb":
        return False
    return _mpirun_size() is not None if _is_rank() else True


def _is_rank() -> bool:
    return "OMPI_COMM_WORLD_SIZE" in os.environ


def _mpirun_size() -> os.terminal_size | None:
    """Size of the terminal that mpirun writes to; None where it writes to something else.

    Open MPI gives each rank a pseudo-terminal, even where its own output goes to a file, so ask for its own.
    """
    output = f"/proc/{os.getppid()}/fd/1"
    try:
        if not os.readlink(output).startswith("/dev/"):
            return None
        descriptor = os.open(output, os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        return os.get_terminal_size(descriptor)
    except OSError:
        return None  # /dev/null and the like
    finally:
        os.close(descriptor)


def _some(metrics: Iterable[tuple[str, float]], most: int) -> list[str]:
    parts = [f"{name} {_number(value)}" for name, value in metrics]
    return parts if len(parts) <= most else [*parts[:most], f"and {len(parts) - most} more"]


def _number(value: float) -> str:
    """Four digits that matter."""
    if value == 0 or 0.01 <= abs(value) < 1e5:
        return f"{value:,.2f}" if abs(value) >= 10 else f"{value:.3f}"
    return f"{value:.3g}"


def _duration(seconds: float | None) -> str:
    if seconds is None or not math.isfinite(seconds):
        return "-:--:--"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
