"""``marl doctor``: checks of this installation, or of an environment, with findings in plain language."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass

from marl.envs.conformance import Finding, examine
from marl.errors import InputError
from marl.launchers.command_line.options import ObjectText, Positional
from marl.launchers.console import read_options
from marl.launchers.environment_variables import available_cores
from marl.launchers.jobs.mpirun import find_mpirun, rank_environment
from marl.launchers.run.settings import read_env_kwargs


@dataclass(frozen=True, kw_only=True)
class DoctorOptions:
    """Options of ``marl doctor``."""

    env: Positional[str | None] = None
    """The environment to check; this installation if not given."""
    env_kwargs: ObjectText = "{}"
    """Arguments of the environment."""
    seconds: float = 60.0
    """About how long the checks of an environment may take; what there was no time for is said."""
    json: bool = False
    """Print one JSON object a finding."""


def doctor(argv: list[str]) -> int:
    """Checks this installation, or an environment; 1 where something keeps it from training."""
    options: DoctorOptions = read_options(DoctorOptions, argv, program="marl doctor")

    findings: Iterable[Finding] = examine_installation()
    if options.env is not None:
        kwargs = read_env_kwargs(options.env_kwargs)
        findings = examine(options.env, env_kwargs=kwargs, seconds=options.seconds)
    broken = False
    for finding in findings:
        broken |= finding.fatal and not finding.ok
        if options.json:
            print(json.dumps(asdict(finding)), flush=True)
        else:
            verdict = "ok" if finding.ok else "FAIL" if finding.fatal else "note"
            print(f"{verdict:<4}  {finding.rule}: {finding.message}", flush=True)
    return int(broken)


_PACKAGES = ("torch", "numpy", "pettingzoo", "mpe2", "supersuit", "mpi4py", "wandb", "safetensors")


def examine_installation() -> Iterator[Finding]:
    """Checks Python, the packages, cores, GPUs, and that two MPI ranks find each other."""
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding(rule="python", agent=None, ok=sys.version_info >= (3, 10), message=f"{version} (3.10 or newer)")
    for package in _PACKAGES:
        try:
            yield Finding(rule=package, agent=None, ok=True, message=importlib.metadata.version(package))
        except importlib.metadata.PackageNotFoundError:
            yield Finding(rule=package, agent=None, ok=False, message=f"not installed; pip install {package}")
    yield Finding(rule="cores", agent=None, ok=True, message=str(available_cores()))
    yield _gpus()
    yield _two_ranks()


def _gpus() -> Finding:
    from marl.launchers.mpi.devices import find_device

    try:
        find_device("cuda")
    except InputError as error:
        return Finding(rule="gpu", agent=None, ok=True, message=f"none, which marl does not need ({error})")
    import torch

    names = {torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())}
    return Finding(rule="gpu", agent=None, ok=True, message=f"{torch.cuda.device_count()}: {', '.join(sorted(names))}")


def _two_ranks() -> Finding:
    program = "from mpi4py import MPI; import sys; sys.exit(MPI.COMM_WORLD.allreduce(1) != 2)"
    try:
        mpirun = find_mpirun()
        done = subprocess.run(
            [mpirun, "-n", "2", "--bind-to", "none", sys.executable, "-c", program],
            env={**os.environ, **rank_environment(2)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    except InputError as error:
        return Finding(rule="mpi", agent=None, ok=False, message=str(error))
    except subprocess.TimeoutExpired:
        return Finding(rule="mpi", agent=None, ok=False, message=f"{mpirun} -n 2 did not end within a minute")
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        message = f"two ranks started by {mpirun} do not find each other: {last}"
        return Finding(rule="mpi", agent=None, ok=False, message=message)
    return Finding(rule="mpi", agent=None, ok=True, message=f"two ranks found each other through {mpirun}")
