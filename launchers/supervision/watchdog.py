"""Noticing a rank that is stuck, without a call to MPI: what every rank writes down, and who reads it.

Each rank keeps a small file in the run directory's ``ranks`` folder that says how many updates it has done, how many
collectives it has entered and left, and which one it is in. A thread in every rank (and the supervisor) reads all of
them. Nobody compares clocks: a rank stands still if its file has not changed for a while on the reader's own clock. On
several hosts this needs a run directory that all of them see; ranks whose files are not seen are not watched.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from marl.launchers.supervision.diagnosis import DUMP_SIGNAL, Observer, Verdict, _has_stacks, dump_stacks
from marl.launchers.supervision.heartbeat import Heartbeat, read_beats


class Watchdog:
    """A thread that ends this rank when the job stands still, or when what started the rank is gone.

    Each writes its stacks; whoever notices first says why, and asks those of its machine that have not written; then
    every rank leaves without another word to MPI, and mpirun ends what is left.

    Args:
        folder: where the heartbeats are.
        timeout: seconds; 0 to watch only over what started the rank.
        stacks: where this rank's stacks go; None for standard error.
        follows_parent: whether to end when the parent process is gone, as a rank of mpirun should.
        heartbeat: this rank's, to be kept fresh.
        leave: ends this process; ``os._exit`` but in tests.
    """

    def __init__(
        self,
        folder: Path,
        timeout: float,
        *,
        stacks: int | None = None,
        follows_parent: bool = False,
        heartbeat: Heartbeat | None = None,
        leave: Callable[[int], object] = os._exit,
    ) -> None:
        self._folder = folder
        self._observer = Observer(folder, timeout) if timeout > 0 else None
        self._interval = min(1.0, timeout / 5) if timeout > 0 else 1.0
        self._stacks = stacks
        self._parent = os.getppid() if follows_parent else None
        self._heartbeat = heartbeat
        self._leave = leave
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(self._interval):
            if self._parent is not None and os.getppid() != self._parent:
                # mpirun was killed. Nobody else will end this rank, and its collectives may wait for ever.
                self._leave(1)
                return
            if self._heartbeat is not None:
                self._heartbeat.refresh()
            if self._observer is not None and (verdict := self._observer.look()) is not None:
                self._end(verdict)
                return

    def _end(self, verdict: Verdict) -> None:
        first = verdict.save(self._folder)
        if first:
            sys.stderr.write(f"marl: {verdict.reason}; stacks are in {self._folder}\n")
            sys.stderr.flush()
        self._write_stacks()
        # Ranks whose Python runs notice soon and write their own. A signal is for the others: its handler reads the
        # frames of threads that go on running.
        time.sleep(2 * self._interval + 0.5)
        if first:
            silent = [beat for beat in read_beats(self._folder) if not _has_stacks(self._folder, beat.rank)]
            dump_stacks(silent)
        # The others' stacks come while they still wait, and the first to leave ends them all.
        time.sleep(1.0)
        self._leave(1)

    def _write_stacks(self) -> None:
        if self._stacks is not None:
            faulthandler.dump_traceback(self._stacks, all_threads=True)
        else:
            faulthandler.dump_traceback(sys.__stderr__ or 2, all_threads=True)


@contextlib.contextmanager
def watched_rank(folder: Path, heartbeat: Heartbeat, rank: int, *, timeout: float, in_job: bool) -> Iterator[None]:
    """Writes heartbeats and, on demand or at the end, stacks into a folder; ends the rank if the job stands still.

    What a rank that ends badly wrote stays there: ``RANK.beat``, ``RANK.stack``, ``RANK.error``, ``verdict.json``.

    Args:
        folder: ``ranks`` in the run directory; where it is missing (another host's disk), nothing is written.
        heartbeat: this rank's.
        rank: its number.
        timeout: seconds without progress that are too many; 0 for any.
        in_job: whether this process is a rank of a job, whose signals and crashes are its own.
    """
    heartbeat.open(folder)
    try:
        stacks = os.open(folder / f"{rank}.stack", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
    except OSError:
        stacks = -1
    in_job = in_job and stacks >= 0
    if in_job:
        faulthandler.enable(stacks, all_threads=True)
        faulthandler.register(DUMP_SIGNAL, stacks, all_threads=True)
        # mpirun ends the other ranks with SIGTERM when one has died.
        faulthandler.register(signal.SIGTERM, stacks, all_threads=True, chain=True)
    try:
        if timeout > 0 or in_job:
            with Watchdog(
                folder,
                timeout,
                stacks=stacks if stacks >= 0 else None,
                follows_parent=in_job,
                heartbeat=heartbeat,
            ):
                yield
        else:
            yield
    except BaseException as error:
        heartbeat.fail(f"{type(error).__name__}: {' '.join(str(error).split())}")
        raise
    finally:
        heartbeat.end()
        if in_job:
            faulthandler.unregister(signal.SIGTERM)
            faulthandler.unregister(DUMP_SIGNAL)
            faulthandler.disable()
        heartbeat.close()
        if stacks >= 0:
            os.close(stacks)


def make_folder(folder: Path) -> None:
    """An empty folder for this attempt's files; done by one rank before the others begin."""
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):
        folder.mkdir()
