"""Hosts that do not answer are left out of the hostfile."""

import socket

import pytest

from marl.launchers.jobs.hosts import HostCheck, check_hosts

HOSTS = """# the cluster
alpha slots=2
beta slots=4   # slow
user@gamma

delta slots=1
"""


@pytest.fixture
def check(tmp_path):
    """Checks hosts of which those answer that are named."""

    def find(*here, hosts=HOSTS, agent=""):
        (tmp_path / "hosts").write_text(hosts)
        script = tmp_path / "agent"
        script.write_text(
            f'#!/bin/bash\ncase "$1" in {"|".join(here) or "nobody"}) shift; exec "$@" ;; esac\nexit 255\n'
        )
        script.chmod(0o700)
        names = {"default_hostfile": "PRTE_MCA_prte_default_hostfile", "agent": "PRTE_MCA_plm_ssh_agent"}
        return check_hosts({names["default_hostfile"]: str(tmp_path / "hosts"), names["agent"]: f"{script}{agent}"})

    return find


def test_lines_of_hosts_that_do_not_answer_are_left_out(check):
    assert check("alpha", "user@gamma") == HostCheck(
        hostfile="# the cluster\nalpha slots=2\nuser@gamma\n\n", unreachable=("beta", "delta")
    )


def test_where_all_answer_none_is_left_out(check):
    assert check("alpha", "beta", "user@gamma", "delta") == HostCheck(hostfile=HOSTS, unreachable=())


def test_the_first_agent_counts(check):
    assert check("alpha", hosts="alpha\n", agent=" : rsh") == HostCheck(hostfile="alpha\n", unreachable=())


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "somebody@127.0.0.1", socket.gethostname()])
def test_this_host_needs_no_connection(check, name):
    assert check(hosts=f"{name} slots=2\nbeta\n") == HostCheck(hostfile=f"{name} slots=2\n", unreachable=("beta",))


def test_where_none_answers_the_hostfile_stays_as_it_is(check):
    assert check() is None


def test_without_a_hostfile_there_is_nothing_to_check(check, tmp_path):
    assert check(hosts="") is None
    assert check_hosts({}) is None
    assert check_hosts({"PRTE_MCA_prte_default_hostfile": str(tmp_path / "none")}) is None
