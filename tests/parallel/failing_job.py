"""A job that goes wrong in the way its first argument says; ``test_failures.py`` looks at how it ends."""

import os
import signal
import sys
import time

import torch

from marl.core import Communicator
from marl.errors import InputError
from marl.launchers.mpi.ranks import run_on_ranks


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
            time.sleep(0.5)
            raise RuntimeError("the environment broke")
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
        if last:
            return 0
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        time.sleep(0.5)
        os.kill(os.getppid(), signal.SIGUSR1)
        time.sleep(0.5)
        return 0
    while True:
        # The others wait in a collective, as they do in training.
        communicator.all_reduce(torch.zeros(1))


if __name__ == "__main__":
    sys.exit(run_on_ranks(main))
