"""Detection of a rank that hangs, without a call to MPI: heartbeats of all ranks, and watchdogs that read them.

Each rank keeps a small file in the run directory's ``ranks`` folder with the number of updates that it has done, the
number of collectives that it has entered and left, and the one it is in. A thread in every rank (and the supervisor)
reads all of them. Clocks are not compared: a rank hangs if its file has not changed for a while on the reader's own
clock. On several hosts this needs a shared run directory; ranks whose files are not seen are not watched.
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

from marl.launchers.supervision.diagnosis import DUMP_SIGNAL, Observer, Verdict, dump_stacks, has_stacks
from marl.launchers.supervision.heartbeat import Heartbeat, read_beats
from marl.resources.streams import write_error


class Watchdog:
    """A thread that ends this rank when the job hangs, or when the parent process has ended.

    Every rank dumps its stacks; the first to detect the hang prints the reason, and signals the ranks of its machine
    that have not dumped theirs; then every rank exits without another call to MPI, and mpirun ends the rest.

    Args:
        folder: the folder of the heartbeats.
        timeout: seconds without progress that count as a hang; 0 to watch the parent process only.
        stacks: file descriptor for this rank's stacks; None for standard error.
        follows_parent: whether to end when the parent process has ended, as a rank of mpirun should.
        heartbeat: this rank's heartbeat, to be refreshed.
        leave: ends this process; another function than ``os._exit`` in tests.
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
                # mpirun was killed. Nothing else will end this rank, and its collectives may wait for ever.
                self._leave(1)
                return
            if self._heartbeat is not None:
                self._heartbeat.refresh()
            if self._observer is not None and (verdict := self._observer.poll()) is not None:
                self._end(verdict)
                return

    def _end(self, verdict: Verdict) -> None:
        first = verdict.save(self._folder)
        if first:
            write_error(f"marl: {verdict.reason}; stacks are in {self._folder}\n")
        self._write_stacks()
        # Ranks whose Python runs detect the hang soon and dump their own stacks. The signal is for the others: its
        # handler reads the frames of threads that go on running.
        time.sleep(2 * self._interval + 0.5)
        if first:
            silent = [beat for beat in read_beats(self._folder) if not has_stacks(self._folder, beat.rank)]
            dump_stacks(silent)
        # The others need time to dump their stacks: the first rank to leave ends them all.
        time.sleep(1.0)
        self._leave(1)

    def _write_stacks(self) -> None:
        if self._stacks is not None:
            faulthandler.dump_traceback(self._stacks, all_threads=True)
        else:
            faulthandler.dump_traceback(sys.__stderr__ or 2, all_threads=True)


@contextlib.contextmanager
def watched_rank(folder: Path, heartbeat: Heartbeat, rank: int, *, timeout: float, in_job: bool) -> Iterator[None]:
    """Writes heartbeats and, on demand or at the end, stacks into a folder; ends the rank if the job hangs.

    The files of a rank that fails stay there: ``RANK.beat``, ``RANK.stack``, ``RANK.error``, ``verdict.json``.

    Args:
        folder: ``ranks`` in the run directory; if it is missing (another host's disk), nothing is written.
        heartbeat: this rank's heartbeat.
        rank: its number.
        timeout: seconds without progress that count as a hang; 0 for no limit.
        in_job: whether this process is a rank of a job, so that signals and crashes may be handled.
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
    """Makes an empty folder for this attempt's files; called by one rank before the others begin."""
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):
        folder.mkdir()
