"""Hosts that do not answer are left out of the hostfile."""

import socket

import pytest

from marl.launchers.jobs.hosts import Hosts, look_at_hosts

HOSTS = """# the cluster
alpha slots=2
beta slots=4   # slow
user@gamma

delta slots=1
"""


@pytest.fixture
def look(tmp_path):
    """Looks at hosts of which those answer that are named."""

    def find(*here, hosts=HOSTS, agent=""):
        (tmp_path / "hosts").write_text(hosts)
        script = tmp_path / "agent"
        script.write_text(
            f'#!/bin/bash\ncase "$1" in {"|".join(here) or "nobody"}) shift; exec "$@" ;; esac\nexit 255\n'
        )
        script.chmod(0o700)
        names = {"default_hostfile": "PRTE_MCA_prte_default_hostfile", "agent": "PRTE_MCA_plm_ssh_agent"}
        return look_at_hosts({names["default_hostfile"]: str(tmp_path / "hosts"), names["agent"]: f"{script}{agent}"})

    return find


def test_lines_of_hosts_that_do_not_answer_are_left_out(look):
    assert look("alpha", "user@gamma") == Hosts(
        left="# the cluster\nalpha slots=2\nuser@gamma\n\n", lost=("beta", "delta")
    )


def test_where_all_answer_none_is_lost(look):
    assert look("alpha", "beta", "user@gamma", "delta") == Hosts(left=HOSTS, lost=())


def test_the_first_agent_counts(look):
    assert look("alpha", hosts="alpha\n", agent=" : rsh") == Hosts(left="alpha\n", lost=())


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "somebody@127.0.0.1", socket.gethostname()])
def test_nobody_is_asked_about_this_host(look, name):
    assert look(hosts=f"{name} slots=2\nbeta\n") == Hosts(left=f"{name} slots=2\n", lost=("beta",))


def test_where_none_answers_the_hostfile_stays_as_it_is(look):
    assert look() is None


def test_without_a_hostfile_there_is_nothing_to_look_at(look, tmp_path):
    assert look(hosts="") is None
    assert look_at_hosts({}) is None
    assert look_at_hosts({"PRTE_MCA_prte_default_hostfile": str(tmp_path / "none")}) is None
