"""``marl bench startup``: the time that commands take to start, beside that of what they must import."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from marl.launchers.bench.measurements import Measurement, compare

_MARL = (sys.executable, "-m", "marl.launchers.main")


def run(rounds: int) -> Iterator[Measurement]:
    """Measures starts, in turns with their references.

    Args:
        rounds: the number of turns.

    Yields:
        Seconds of ``marl --help`` beside an empty Python, and seconds until the first update of a training on two
        ranks is written beside the import of torch.
    """
    _seconds((*_MARL, "--help"))  # Fills the page cache.
    starts: tuple[tuple[str, Callable[[], float], str, int], ...] = (
        ("startup/help", lambda: _seconds((*_MARL, "--help")), "", 2 * rounds),
        ("startup/first-update/2-ranks", _first_update, "import torch", rounds),
    )
    for name, command, reference, times in starts:
        values, references = [], []
        for _ in range(times):
            values.append(command())
            references.append(_seconds((sys.executable, "-c", reference)))
        yield compare(name, values, references, "s")


def _seconds(command: Sequence[str]) -> float:
    begin = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


def _first_update() -> float:
    """Measures the seconds until the first row of metrics; the run is stopped then."""
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "run" / "metrics.jsonl"
        arguments = ("train", "mappo", "mpe2.simple_spread_v3", "--ranks", "2", "--steps", "100000", "--row-every", "1")
        begin = time.perf_counter()
        process = subprocess.Popen((*_MARL, *arguments, "--out", str(rows.parent)), stdout=subprocess.DEVNULL)
        try:
            while process.poll() is None and not (rows.exists() and rows.stat().st_size):
                time.sleep(0.01)
            if process.poll() is not None:
                raise RuntimeError("the training ended before its first update")
            return time.perf_counter() - begin
        finally:
            process.terminate()
            process.wait(timeout=60)
