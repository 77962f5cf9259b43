"""Hosts of a job: which of those that Open MPI's default hostfile names can still be reached."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

HOSTFILE: Final = "PRTE_MCA_prte_default_hostfile"
_AGENT: Final = "PRTE_MCA_plm_ssh_agent"
"""What mpirun starts its daemons on other hosts with, instead of ssh."""
_PATIENCE: Final = 10.0
"""Seconds in which a host must answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hosts:
    """What a look at all hosts has found."""

    left: str
    """The hostfile without those that do not answer."""
    lost: tuple[str, ...]
    """Those that do not answer."""


def look_at_hosts(environment: Mapping[str, str] | None = None) -> Hosts | None:
    """Asks every host of the default hostfile for a sign of life, by the way that mpirun would take.

    Args:
        environment: variables; this process's own by default.

    Returns:
        What was found; None where no hostfile is named, it cannot be read, or no host answers.
    """
    from concurrent.futures import ThreadPoolExecutor

    variables = os.environ if environment is None else environment
    try:
        lines = Path(variables[HOSTFILE]).read_text().splitlines()
    except (KeyError, OSError):
        return None
    named = [(line, line.partition("#")[0].split()[:1]) for line in lines]
    hosts = {host for _, words in named for host in words}
    # The agents that mpirun would try are divided by colons, as in its own default, ssh : rsh.
    agent = variables.get(_AGENT, "ssh").partition(":")[0].split() or ["ssh"]
    if Path(agent[0]).name == "ssh":
        agent += ["-o", "BatchMode=yes"]
    with ThreadPoolExecutor(max(1, len(hosts))) as pool:
        answers = dict(zip(hosts, pool.map(lambda host: _answers(host, agent), hosts), strict=True))
    if not any(answers.values()):
        return None
    left = [line for line, words in named if all(answers[host] for host in words)]
    return Hosts(left="".join(f"{line}\n" for line in left), lost=tuple(sorted(h for h in hosts if not answers[h])))


def _answers(host: str, agent: list[str]) -> bool:
    if _is_here(host.rpartition("@")[2]):
        return True
    try:
        done = subprocess.run(
            [*agent, host, "true"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_PATIENCE,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _is_here(host: str) -> bool:
    """Whether a host is this one: only its own addresses can be bound."""
    if host == socket.gethostname():
        return True
    with contextlib.suppress(OSError):
        for family, kind, protocol, _, address in socket.getaddrinfo(host, 0, type=socket.SOCK_DGRAM):
            with contextlib.suppress(OSError), socket.socket(family, kind, protocol) as probe:
                probe.bind(address)
                return True
    return False
