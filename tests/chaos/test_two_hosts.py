"""Training over TCP between two hosts, one of which is cut off."""

import pytest
from two_hosts import can_run, cut_off

pytestmark = pytest.mark.skipif(not can_run(), reason="needs root, ip and network namespaces")


@pytest.mark.timeout(300)
def test_a_host_that_is_cut_off_ends_the_job_with_a_reason(tmp_path):
    figures = cut_off(tmp_path, watchdog=10)
    assert figures["updates"] >= 3
    assert figures["bytes sent"] > 0
    assert figures["code"] == 1
    assert any("all_reduce" in line for line in figures["said"])
