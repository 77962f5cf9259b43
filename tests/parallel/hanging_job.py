"""A job of which one rank hangs in the way its first argument says, watched from the folder in its second."""

import os
import signal
import sys
import time
from pathlib import Path

import torch

from marl.core import Communicator
from marl.counters import Counter
from marl.errors import InputError
from marl.launchers.mpi.ranks import run_on_ranks
from marl.launchers.supervision.heartbeat import Heartbeat
from marl.launchers.supervision.watchdog import watched_rank
from marl.launchers.supervision.watched_communicator import WatchedCommunicator


def endless_step() -> None:
    while True:
        time.sleep(0.01)


def main(communicator: Communicator) -> int:
    way, folder = sys.argv[1], Path(sys.argv[2])
    heartbeat = Heartbeat(communicator.rank)
    watched = WatchedCommunicator(communicator, heartbeat)
    heartbeat.counter = counter = Counter()
    communicator.all_reduce(torch.zeros(1))  # so that the watchdog does not see ranks that start late on a busy machine
    last = communicator.rank == communicator.size - 1
    try:
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
                if way == "slow-end":
                    raise InputError("the disk is full")
    finally:
        if way == "slow-end" and last:
            time.sleep(3.5)  # longer than the watchdog's timeout, as W&B may take to finish
    return 0


if __name__ == "__main__":
    sys.exit(run_on_ranks(main))
