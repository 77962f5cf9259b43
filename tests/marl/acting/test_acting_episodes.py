"""Numbers in the last infos of episodes, over copies, ranks and checkpoints."""

import pytest
import torch

from marl.acting.episodes import InfoSums
from marl.distributed.communicators import SerialCommunicator
from marl.distributed.names import agree_on_names, decode_lines, encode_names


def reduced(sums):
    message = torch.cat((sums.totals(), torch.tensor([float(sums.has_new)], dtype=torch.float64)))
    return sums.reduce(message, SerialCommunicator())


def test_means_are_over_the_episodes_that_had_the_number():
    sums = InfoSums(3)
    sums.add([0, 2], [{"won": 1.0}, {"won": 0.0, "kills": 4.0}])
    assert reduced(sums) == {"info/kills": 4.0, "info/won": 0.5}
    assert reduced(sums) == {}
    sums.add([1], [{"won": 1.0}])
    sums.add([1], [{"late": 3.0}])
    assert reduced(sums) == {"info/late": 3.0, "info/won": 1.0}


def test_sums_of_known_names_go_on_in_another_process():
    sums = InfoSums(2)
    sums.add([0], [{"a": 1.0, "b": 2.0}])
    reduced(sums)
    sums.add([1], [{"b": 5.0}])
    again = InfoSums(2)
    again.know(sums.names)
    again.sums.copy_(sums.sums)
    again.add([0], [{"b": 6.0}])
    assert reduced(again) == {"info/b": 5.5}


def test_names_that_another_rank_has_seen_are_agreed_on():
    class Root(SerialCommunicator):
        size = 2

        def gather_rows(self, tensor):
            return torch.cat((tensor, encode_names(["ä.1", "a"])))

    assert agree_on_names(["b", "a"], Root()) == ("a", "b", "ä.1")
    assert agree_on_names(["b", "a"], SerialCommunicator()) == ("a", "b")
    assert decode_lines(encode_names([])) == [[]]
    assert agree_on_names([], SerialCommunicator()) == ()


@pytest.mark.parametrize("name", ["", "a/b", "100 %", "x.y"])
def test_names_may_be_anything(name):
    sums = InfoSums(1)
    sums.add([0], [{name: 2.0}])
    assert reduced(sums) == {f"info/{name}": 2.0}
