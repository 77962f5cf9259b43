import pytest

from marl.errors import InputError
from marl.learning.schedules import LinearSchedule


def test_linear_schedules_end_where_they_should():
    schedule = LinearSchedule(start=1.0, end=0.2, steps=100)
    assert [schedule(step) for step in (0, 50, 100, 10**9)] == pytest.approx([1.0, 0.6, 0.2, 0.2])
    assert LinearSchedule(start=1.0, end=0.2, steps=0)(0) == 0.2


@pytest.mark.parametrize("wrong", [{"steps": -1}, {"start": float("nan")}, {"end": float("inf")}])
def test_senseless_schedules_are_refused(wrong):
    with pytest.raises(InputError):
        LinearSchedule(**{"start": 1.0, "end": 0.0, "steps": 10, **wrong})
