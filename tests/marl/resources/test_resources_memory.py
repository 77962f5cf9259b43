"""What does not fit into a machine's memory is refused on all its ranks, before it is allocated."""

import pytest

from marl.errors import InputError
from marl.resources import memory
from marl.resources.memory import available_memory, require_memory
from marl.testing.threads import run_on_threads


def test_something_is_free():
    assert available_memory() > 0


def test_what_fits_passes_and_what_does_not_is_refused_with_both_numbers(monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 8 * 2**30)
    require_memory(8 * 2**30, lambda needs, share: needs)
    with pytest.raises(
        InputError, match=r"^pictures: needs 12\.0 GiB on one machine, but 8\.0 GiB are free; take 67%$"
    ):
        require_memory(12 * 2**30, lambda needs, share: f"pictures: {needs}; take {share:.0%}")


def test_ranks_of_one_machine_add_up_and_refuse_together(monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 8 * 2**30)

    def work(communicator):
        # Each alone would fit, and the second would even alone with a share of nothing.
        try:
            require_memory((5 if communicator.rank else 4) * 2**30, lambda needs, share: needs, communicator)
        except InputError as error:
            return str(error)
        return "fits"

    assert run_on_threads(2, work) == ["needs 9.0 GiB on one machine, but 8.0 GiB are free"] * 2
