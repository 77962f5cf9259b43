"""A job of which one rank hangs in the way its first argument says, watched from the folder in its second."""

import os
import signal
import sys
import time
from pathlib import Path

import torch

from launchers.mpi import run_on_ranks
from launchers.watchdog import Heartbeat, watched_rank
from launchers.watched_communicator import WatchedCommunicator
from marl.core import Communicator
from marl.counters import Counter


def endless_step() -> None:
    while True:
        time.sleep(0.01)


def main(communicator: Communicator) -> int:
    way, folder = sys.argv[1], Path(sys.argv[2])
    heartbeat = Heartbeat(communicator.rank)
    watched = WatchedCommunicator(communicator, heartbeat)
    heartbeat.counter = counter = Counter()
    communicator.all_reduce(torch.zeros(1))  # ranks that start late on a busy machine are not what is watched here
    last = communicator.rank == communicator.size - 1
    with watched_rank(folder, heartbeat, communicator.rank, timeout=2.0, in_job=True):
        for _ in range(1000):
            watched.all_reduce(torch.zeros(4))
            counter.updates += 1
            if counter.updates < 5 or not last:
                continue
            if way == "endless":
                endless_step()
            if way == "stopped":
                os.kill(os.getpid(), signal.SIGSTOP)
            if way == "out-of-step":
                watched.broadcast(torch.zeros(1, dtype=torch.float64))
    return 0


if __name__ == "__main__":
    sys.exit(run_on_ranks(main))
