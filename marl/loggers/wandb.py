"""A logger to Weights & Biases that isolates training from a stalled, slow or unreachable server."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from marl.files import Json
from marl.loggers import wandb_process
from marl.loggers.base import Logger
from marl.resources.streams import write_error

_KILL_AFTER = 15.0
"""Seconds past its own time limit in which the process must have answered."""


class WandbLogger(Logger):
    """Sends rows to one W&B run, over environment steps, through a process of its own.

    ``write`` never waits: it hands the row to a pipe. If W&B cannot be reached, one warning is given and the rows are
    let go: the journal has them all, and ``marl track RUN`` can send them later. Keys are left to W&B itself
    (``wandb login`` or ``WANDB_API_KEY``).

    Args:
        project: the W&B project.
        name: the run's name.
        mode: ``offline`` writes to ``directory`` only, for ``wandb sync``.
        config: shown with the run.
        directory: W&B makes its folder ``wandb`` in it.
        run_id: the run's identity, to continue an online run after a restart; by default a new one.
        resume: continue the online run ``run_id`` if it is there; rows up to its last ``env_steps`` are not repeated.
        group: runs of one group are shown together.
        init_timeout: seconds in which W&B must have begun.
        finish_timeout: seconds that ``close`` waits for uploads.
        most_bytes: rows that wait while W&B stalls take this much memory at most, later ones are dropped and
            counted; None for no limit.
        warn: takes a line about trouble; prints it to stderr by default.
    """

    def __init__(
        self,
        project: str,
        name: str,
        *,
        mode: Literal["online", "offline"],
        config: Mapping[str, Json],
        directory: Path,
        run_id: str | None = None,
        resume: bool = False,
        group: str | None = None,
        init_timeout: float = 60.0,
        finish_timeout: float = 60.0,
        most_bytes: int | None = 1 << 26,
        warn: Callable[[str], None] | None = None,
    ) -> None:
        self._warn = warn or _to_stderr
        self._finish_timeout = finish_timeout
        self._most_bytes = most_bytes
        self._unsent = bytearray()
        self._answers = b""
        self._deadline: float | None = time.monotonic() + init_timeout + _KILL_AFTER
        self.dropped = 0
        """Rows that were not sent because W&B stalled."""
        self.url: str | None = None
        """The address of the run (its folder, if offline), once W&B has begun."""
        self.failure: str | None = None
        """The reason for which rows are no longer sent; None while they are."""
        self._finished = False
        directory = Path(directory).absolute()
        directory.mkdir(parents=True, exist_ok=True)
        # Nothing secret is on the command line. A session of its own: Ctrl-C is for us, who then close in order.
        self._process = subprocess.Popen(
            [sys.executable, wandb_process.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "WANDB_SILENT": "true"},
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input = self._process.stdin.fileno()
        self._output = self._process.stdout.fileno()
        os.set_blocking(self._input, False)
        os.set_blocking(self._output, False)
        self._request(
            init={
                "project": project,
                "name": name,
                "group": group,
                "id": run_id,
                "resume": resume,
                "mode": mode,
                "config": config,
                "directory": str(directory),
                "init_timeout": init_timeout,
                "most_bytes": most_bytes,
            }
        )

    def write(self, row: Mapping[str, float]) -> None:
        """Passes the row on, without waiting."""
        self._listen()
        if self.failure is not None:
            return
        if self._most_bytes is not None and len(self._unsent) > self._most_bytes:
            self.dropped += 1
            return
        self._request(row={key: value if isinstance(value, int) else float(value) for key, value in row.items()})

    def log_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[str | float | None]]) -> None:
        """Sends a table along with the run, such as a tournament's leaderboard; a row has a value for each column."""
        if self.failure is None:
            self._request(table={"name": name, "columns": list(columns), "rows": [list(row) for row in rows]})

    def log_artifact(self, path: Path, name: str, kind: str = "model") -> None:
        """Sends a folder, such as the final checkpoint, along with the run; it must stay until ``close``."""
        if self.failure is None:
            name = re.sub(r"[^A-Za-z0-9_.-]+", "-", name)  # what W&B allows
            self._request(artifact={"path": str(Path(path).absolute()), "name": name, "type": kind})

    def close(self, code: int = 0) -> None:
        """Finishes the run, waiting ``finish_timeout`` seconds at most.

        Args:
            code: 0 for a run that is done; W&B shows others as failed.
        """
        if self._process.returncode is not None:
            return
        if self.failure is None:
            self._request(close=code)
        # A run that has not begun yet gets its time to begin, too.
        end = max(time.monotonic() + self._finish_timeout, self._deadline or 0.0)
        while self.failure is None and not self._finished:
            self._send()
            self._listen()
            if time.monotonic() > end:
                self._fail(f"uploads did not finish in {self._finish_timeout:.0f} seconds")
            time.sleep(0.01)
        self._end()
        if self.dropped and self.failure is None:
            self._warn(f"W&B stalled and missed {self.dropped} rows; 'marl track RUN' sends all of them")

    def _request(self, **request: Json | Mapping[str, Json]) -> None:
        self._unsent += json.dumps(request).encode() + b"\n"
        self._send()

    def _send(self) -> None:
        try:
            while self._unsent:
                del self._unsent[: os.write(self._input, self._unsent)]
        except BlockingIOError:
            pass
        except OSError:
            self._listen()  # it may have sent the reason
            self._fail("its process ended")

    def _listen(self) -> None:
        if self.failure is not None:
            return
        ended = False
        with contextlib.suppress(BlockingIOError):
            while not ended:
                data = os.read(self._output, 65536)
                self._answers += data
                ended = not data
        *lines, self._answers = self._answers.split(b"\n")
        for line in lines:
            self._handle(line)
        if ended and not self._finished:
            self._fail("its process ended")
        if self._deadline is not None and time.monotonic() > self._deadline:
            self._fail("it did not begin in time")

    def _handle(self, line: bytes) -> None:
        try:
            answer = json.loads(line)
        except ValueError:
            return  # W&B itself printed something
        if not isinstance(answer, dict):
            return
        if "ready" in answer:
            self.url, self._deadline = answer["ready"], None
        elif "failed" in answer:
            self._fail(answer["failed"])
        elif "finished" in answer:
            self._finished = True
            self.dropped += answer["finished"]

    def _fail(self, why: str) -> None:
        if self.failure is None and not self._finished:
            self.failure = why
            self._unsent.clear()
            self._warn(f"W&B is not available ({why}); the run goes on, and 'marl track RUN' can send it later")
            self._end()

    def _end(self) -> None:
        """Waits for the process to end, and kills it if it does not."""
        if self._process.returncode is not None:
            return
        if self.failure is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=_KILL_AFTER)
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()


def _to_stderr(line: str) -> None:
    write_error(f"{line}\n")
