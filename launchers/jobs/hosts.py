"""Hosts of a job: those of Open MPI's default hostfile that can still be reached."""

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
"""The program that mpirun starts its daemons on other hosts with, instead of ssh."""
_TIMEOUT: Final = 10.0
"""Seconds in which a host must answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostCheck:
    """The result of a check of all hosts.

    Attributes:
        hostfile: the hostfile without unreachable hosts.
        unreachable: the hosts that do not answer.
    """

    hostfile: str
    unreachable: tuple[str, ...]


def check_hosts(environment: Mapping[str, str] | None = None) -> HostCheck | None:
    """Connects to every host of the default hostfile, with the program that mpirun would use.

    Args:
        environment: variables; those of this process by default.

    Returns:
        The reachable and unreachable hosts; None if there is no hostfile, it cannot be read, or no host answers.
    """
    from concurrent.futures import ThreadPoolExecutor

    variables = os.environ if environment is None else environment
    try:
        lines = Path(variables[HOSTFILE]).read_text().splitlines()
    except (KeyError, OSError):
        return None
    entries = [(line, line.partition("#")[0].split()[:1]) for line in lines]
    hosts = {host for _, names in entries for host in names}
    # The agents that mpirun would try are separated by colons, as in its own default, ssh : rsh.
    agent = variables.get(_AGENT, "ssh").partition(":")[0].split() or ["ssh"]
    if Path(agent[0]).name == "ssh":
        agent += ["-o", "BatchMode=yes"]
    with ThreadPoolExecutor(max(1, len(hosts))) as pool:
        answers = dict(zip(hosts, pool.map(lambda host: _answers(host, agent), hosts), strict=True))
    if not any(answers.values()):
        return None
    reachable = [line for line, names in entries if all(answers[host] for host in names)]
    return HostCheck(
        hostfile="".join(f"{line}\n" for line in reachable),
        unreachable=tuple(sorted(host for host in hosts if not answers[host])),
    )


def _answers(host: str, agent: list[str]) -> bool:
    if _is_this_host(host.rpartition("@")[2]):
        return True
    try:
        done = subprocess.run(
            [*agent, host, "true"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _is_this_host(host: str) -> bool:
    """Returns whether a host is this one: only its own addresses can be bound."""
    if host == socket.gethostname():
        return True
    with contextlib.suppress(OSError):
        for family, kind, protocol, _, address in socket.getaddrinfo(host, 0, type=socket.SOCK_DGRAM):
            with contextlib.suppress(OSError), socket.socket(family, kind, protocol) as probe:
                probe.bind(address)
                return True
    return False
