"""A job that fails in the way its first argument says; ``test_failures.py`` checks how it ends."""

import os
import signal
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "helpers"))

from processes import wait_until_ignored

from marl.core import Communicator
from marl.errors import InputError
from marl.launchers.mpi.ranks import run_on_ranks


def first_pid(communicator: Communicator) -> int:
    """Returns the process id of rank 0. Collective."""
    pid = torch.tensor(os.getpid())
    communicator.broadcast(pid)
    return int(pid)


def main(communicator: Communicator) -> int:
    way = sys.argv[1]
    last = communicator.rank == communicator.size - 1
    if way == "input-everywhere":
        raise InputError("no environment called mpe2.simple_spred_v3")
    if way == "input-on-one" and last:
        raise InputError("no such file on this host")
    if way == "error-on-one" and last:
        raise RuntimeError("the environment broke")
    if way == "error-everywhere":
        raise RuntimeError("the environment broke")
    if way == "different-errors":
        raise RuntimeError("trouble on zero") if communicator.rank == 0 else ZeroDivisionError("trouble elsewhere")
    if way == "exit-on-one" and last:
        sys.exit(3)
    if way == "error-after-others-finished":
        if last:
            # A rank that has ended its work ignores requests to stop.
            wait_until_ignored(first_pid(communicator), signal.SIGUSR1)
            raise RuntimeError("the environment broke")
        first_pid(communicator)
        return 0
    if way == "killed" and last:
        os.kill(os.getpid(), signal.SIGKILL)
    if way == "stopped-in-order":
        requested = []
        signal.signal(signal.SIGUSR1, lambda *_: requested.append(True))
        communicator.all_reduce(torch.zeros(1))  # now all ranks hear the request
        if communicator.rank == 0:
            print("ready", flush=True)  # noqa: T201
        flag = torch.zeros(1)
        while not flag.item():
            time.sleep(0.01)
            flag.fill_(float(bool(requested)))
            communicator.all_reduce(flag, "max")
        return 75
    if way == "asked-at-the-end":
        pid = first_pid(communicator)
        if not last:
            return 0
        wait_until_ignored(pid, signal.SIGUSR1)
        forwarded = []
        signal.signal(signal.SIGUSR1, lambda *_: forwarded.append(True))
        os.kill(os.getppid(), signal.SIGUSR1)
        while not forwarded:
            time.sleep(0.01)
        return 0
    while True:
        # The others wait in a collective, as they do in training.
        communicator.all_reduce(torch.zeros(1))


if __name__ == "__main__":
    sys.exit(run_on_ranks(main))
