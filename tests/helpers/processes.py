"""What the kernel knows of other processes: for tests that wait for an event instead of a time."""

import signal
import time
from pathlib import Path


def wait_until_ignored(pid: int, number: signal.Signals, *, timeout: float = 120.0) -> None:
    """Waits until a process ignores a signal."""
    _wait_for_mask(pid, "SigIgn", number, timeout)


def wait_until_handled(pid: int, number: signal.Signals, *, timeout: float = 120.0) -> None:
    """Waits until a process has a handler for a signal, or has ended."""
    _wait_for_mask(pid, "SigCgt", number, timeout)


def _wait_for_mask(pid: int, name: str, number: signal.Signals, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        try:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        except OSError:
            return
        masks = dict(line.split(":", 1) for line in lines if line.startswith("Sig"))
        if not masks or int(masks[name], 16) >> (number - 1) & 1:
            return
        time.sleep(0.01)
    raise TimeoutError(f"process {pid}: {number.name} is not in {name} after {timeout:g} s")
