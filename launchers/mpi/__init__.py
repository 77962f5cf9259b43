"""MPI: communicators, devices, and the ranks of a job; the only importers of mpi4py."""

from marl.launchers.mpi.ranks import run_on_ranks

__all__ = ["run_on_ranks"]
