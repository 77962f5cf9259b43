"""Training over TCP between two hosts, one of which is cut off."""

import pytest
from two_hosts import can_run, cut_off

pytestmark = pytest.mark.skipif(not can_run(), reason="needs root, ip and network namespaces")


@pytest.mark.timeout(300)
def test_where_a_host_is_cut_off_the_run_goes_on_from_its_checkpoint_on_the_other(tmp_path):
    result = cut_off(tmp_path, watchdog=10)
    assert result["updates"] >= 3
    assert result["bytes sent"] > 0
    assert result["code"] == 75
    failed, lost = result["said"]
    assert "all_reduce" in failed
    assert lost == "marl: no answer from 10.77.0.2; 2 ranks start on the other hosts"
