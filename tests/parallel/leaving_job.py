"""A job one of whose ranks leaves in the way its first argument says; ``test_failures.py`` checks how it ends."""

import ctypes
import os
import sys

from marl.core import Communicator
from marl.launchers.mpi.ranks import run_on_ranks

WAYS = {
    "sys.exit(0)": lambda: sys.exit(0),
    "sys.exit()": lambda: sys.exit(),
    "sys.exit(2)": lambda: sys.exit(2),
    "sys.exit(75)": lambda: sys.exit(75),
    "raise SystemExit": lambda: (_ for _ in ()).throw(SystemExit(0)),
    "os._exit(0)": lambda: os._exit(0),
    "exec": lambda: os.execv("/bin/true", ["true"]),
    "C exit(0)": lambda: ctypes.CDLL(None).exit(0),
    "C _exit(0)": lambda: ctypes.CDLL(None)._exit(0),
}
"""Whoever leaves, and whether the others wait for it or not."""


def main(communicator: Communicator) -> int:
    way, _, everywhere = sys.argv[1].partition(" everywhere")
    if everywhere or communicator.rank == 1:
        WAYS[way]()
    return 0


if __name__ == "__main__":
    sys.exit(run_on_ranks(main))
