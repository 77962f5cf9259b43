"""Two hosts on one machine: network namespaces on a bridge, a training run over TCP between them, and a cut link.

``python tests/chaos/two_hosts.py`` (as root, with ``ip``) trains, cuts one host off in mid-run, and prints one JSON
object: how long the first attempt took to end, and how long it was until the host that is left had done an update that
was new. ``test_two_hosts.py`` runs it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from marl.launchers.jobs.job import marl_command

GAME = ("mappo", "mpe2.simple_spread_v3", "--backend", "batched", "--num-envs", "32", "--compile", "no")
PATIENCE = 120.0
_AGENT = """#!/bin/bash
host=$1; shift
# As ssh does, it needs the network: a host that is there refuses a port that nobody listens at.
{python} - $host <<'END' || exit 255
import errno, socket, sys
with socket.socket() as probe:
    probe.settimeout(3)
    sys.exit(probe.connect_ex((sys.argv[1], 9)) != errno.ECONNREFUSED)
END
exec ip netns exec {name}-${{host##*.}} unshare -u bash -c "hostname node${{host##*.}}; $*"
"""


def can_run() -> bool:
    """Whether this machine lets us make network namespaces."""
    tools = all(shutil.which(tool) for tool in ("ip", "unshare"))
    return (
        tools and os.geteuid() == 0 and not subprocess.run(["ip", "netns"], capture_output=True, check=False).returncode
    )


class TwoHosts:
    """Two namespaces joined by a bridge, 10.77.0.1 and 10.77.0.2.

    Args:
        folder: for the hostfile and the agent that starts daemons.
    """

    def __init__(self, folder: Path) -> None:
        self._name = f"marl{os.getpid()}"
        self._folder = folder

    def start(self, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
        """Starts ``marl`` on host 1, with ranks on both."""
        variables = {
            "PRTE_MCA_plm_ssh_agent": str(self._folder / "agent"),
            "PRTE_MCA_prte_default_hostfile": str(self._folder / "hosts"),
            "PRTE_MCA_rmaps_default_mapping_policy": "node:oversubscribe",
            # Both hosts share this machine's cores, which mpirun cannot know.
            "OMPI_MCA_mpi_yield_when_idle": "true",
            "OMP_NUM_THREADS": "1",
        }
        script = 'hostname node1; exec "$@"'
        host = ["ip", "netns", "exec", f"{self._name}-1", "unshare", "-u", "bash", "-c", script, "bash"]
        with (self._folder / "log").open("wb") as log:
            return subprocess.Popen(
                [*host, *marl_command([*arguments])],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **variables},
            )

    def cut(self) -> None:
        """Takes host 2's link down."""
        self._ip("link", "set", self._port(2), "down")

    def sent(self) -> int:
        """Bytes that host 1 has sent."""
        shown = subprocess.run(
            ["ip", "-n", f"{self._name}-1", "-s", "-j", "link", "show", "eth0"], capture_output=True, check=True
        )
        return int(json.loads(shown.stdout)[0]["stats64"]["tx"]["bytes"])

    @contextlib.contextmanager
    def made(self) -> Iterator[TwoHosts]:
        """The hosts, taken away in the end."""
        (self._folder / "hosts").write_text("10.77.0.1 slots=2\n10.77.0.2 slots=2\n")
        agent = self._folder / "agent"
        agent.write_text(_AGENT.format(name=self._name, python=sys.executable))
        agent.chmod(0o700)
        bridge = f"{self._name}b"
        try:
            self._ip("link", "add", bridge, "type", "bridge")
            self._ip("link", "set", bridge, "up")
            for number in (1, 2):
                host, port = f"{self._name}-{number}", self._port(number)
                self._ip("netns", "add", host)
                self._ip("link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", host)
                self._ip("link", "set", port, "master", bridge, "up")
                self._ip("-n", host, "addr", "add", f"10.77.0.{number}/24", "dev", "eth0")
                self._ip("-n", host, "link", "set", "eth0", "up")
                self._ip("-n", host, "link", "set", "lo", "up")
            yield self
        finally:
            for number in (1, 2):
                host = f"{self._name}-{number}"
                left = subprocess.run(["ip", "netns", "pids", host], capture_output=True, text=True, check=False)
                for pid in left.stdout.split():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(pid), 9)
                for arguments in (["netns", "del", host], ["link", "del", self._port(number)]):
                    subprocess.run(["ip", *arguments], capture_output=True, check=False)
            subprocess.run(["ip", "link", "del", bridge], capture_output=True, check=False)

    def _port(self, number: int) -> str:
        return f"{self._name}v{number}"

    def _ip(self, *arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, capture_output=True)


def cut_off(folder: Path, *, watchdog: float = 20) -> dict[str, object]:
    """Trains on two hosts, cuts one off after a few updates, and asks what is left to stop after some more."""
    run = folder / "run"
    with TwoHosts(folder).made() as hosts:
        arguments = ["train", *GAME, "--steps", "10000000", "--ranks", "2", "--row-every", "1", "--out", str(run)]
        arguments += ["--checkpoint-every", "1600", "--max-restarts", "3", "--watchdog", str(watchdog)]
        job = hosts.start(arguments)
        try:
            began = time.monotonic()
            while job.poll() is None and time.monotonic() - began < PATIENCE and _rows(run) < 3:
                time.sleep(0.05)
            updates, sent = _rows(run), hosts.sent()
            hosts.cut()
            cut = time.monotonic()
            # Rows are cut back to the checkpoint before they grow again.
            done = _rows(run)
            ended = _wait(job, lambda: "marl: the job failed" in _log(folder)) - cut
            went_on = _wait(job, lambda: "restart 1 of" in _log(folder) and _rows(run) > done) - cut
            job.send_signal(signal.SIGUSR1)
            with contextlib.suppress(subprocess.TimeoutExpired):
                job.wait(PATIENCE)
        finally:
            if job.poll() is None:
                job.kill()
                job.wait()
    said = [line for line in _log(folder).splitlines() if line.startswith(("marl: the job failed", "marl: no answer"))]
    return {
        "updates": updates,
        "bytes sent": sent,
        "seconds to the end of the job": round(ended, 1),
        "seconds to an update on one host": round(went_on, 1),
        "code": job.returncode,
        "said": said,
    }


def _wait(job: subprocess.Popen[bytes], condition: Callable[[], bool]) -> float:
    """Waits for something to happen, or for the job to end; when it did."""
    deadline = time.monotonic() + PATIENCE
    while job.poll() is None and time.monotonic() < deadline and not condition():
        time.sleep(0.05)
    return time.monotonic()


def _log(folder: Path) -> str:
    return (folder / "log").read_text()


def _rows(run: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return (run / "metrics.jsonl").read_bytes().count(b"\n")
    return 0


def main() -> int:
    folder = Path(tempfile.mkdtemp(prefix="marl-hosts."))
    result = cut_off(folder)
    print(json.dumps({"chaos": "two hosts", **result}), flush=True)  # noqa: T201
    return 0 if result["code"] == 75 and len(result["said"]) == 2 else 1


if __name__ == "__main__":
    sys.exit(main())
