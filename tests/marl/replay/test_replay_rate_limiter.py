import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marl.errors import InputError
from marl.replay.rate_limiter import SamplesPerInsert

numbers = st.integers(1, 5000)
ratios = st.floats(1e-3, 1e3)
widenings = st.none() | st.floats(1.0, 10.0)


def make(ratio, min_size, batch_size, insert_size, widening):
    """A limiter with the default window, or with the narrowest possible one times a factor of at least 1."""
    tolerance = None if widening is None else widening * (batch_size + ratio * insert_size) / 2
    return SamplesPerInsert(
        ratio=ratio, min_size=min_size, batch_size=batch_size, insert_size=insert_size, tolerance=tolerance
    )


@given(ratios, numbers, numbers, numbers, widenings, st.data())
def test_a_loop_that_learns_whenever_it_may_holds_the_ratio(ratio, min_size, batch, insert, widening, data):
    limiter = make(ratio, min_size, batch, insert, widening)
    inserts = samples = 0
    for _ in range(data.draw(st.integers(1, 60))):
        if limiter.can_sample(inserts, samples):
            samples += batch
            assert limiter.lead(inserts, samples) >= -limiter.window - 1e-6 * inserts
        else:
            started = inserts >= min_size
            inserts += insert
            assert not started or limiter.lead(inserts, samples) <= limiter.window + 1e-6 * inserts
        if inserts < min_size:
            assert samples == 0


def loop(limiter, steps):
    """The training loop of marl.core: insert, then learn while there is something to do."""
    inserts = samples = 0
    history = []
    for _ in range(steps):
        inserts += limiter.insert_size
        while limiter.can_sample(inserts, samples):
            samples += limiter.batch_size
        history.append((inserts, samples))
    return history


def test_learning_begins_with_the_first_minimal_number_of_inserts():
    limiter = SamplesPerInsert(ratio=4.0, min_size=100, batch_size=32, insert_size=10)
    history = dict(loop(limiter, 20))
    assert history[90] == 0
    assert history[100] > 0


def test_learning_does_not_catch_up_on_the_inserts_before_it_began():
    limiter = SamplesPerInsert(ratio=8.0, min_size=10_000, batch_size=32, insert_size=10)
    samples = dict(loop(limiter, 1000))[10_000]
    assert samples <= limiter.window + limiter.batch_size


@pytest.mark.parametrize("ratio", [0.05, 1.0, 10.24, 256.0])
@pytest.mark.parametrize(("batch_size", "insert_size"), [(1024, 64), (32, 1), (1, 128)])
def test_long_run_ratio_is_the_one_asked_for(ratio, batch_size, insert_size):
    limiter = SamplesPerInsert(ratio=ratio, min_size=1, batch_size=batch_size, insert_size=insert_size)
    steps = 4 + math.ceil(40 * batch_size / (ratio * insert_size))
    inserts, samples = loop(limiter, min(steps, 200_000))[-1]
    assert abs(samples - ratio * inserts) <= limiter.window + ratio


@pytest.mark.parametrize(
    "arguments",
    [
        {"ratio": 0.0},
        {"ratio": -1.0},
        {"ratio": math.inf},
        {"ratio": math.nan},
        {"min_size": 0},
        {"batch_size": 0},
        {"insert_size": 0},
        {"tolerance": 19.0},
        {"tolerance": math.nan},
        {"tolerance": math.inf},
    ],
)
def test_impossible_ratios_are_refused_in_one_line(arguments):
    with pytest.raises(InputError) as error:
        SamplesPerInsert(**({"ratio": 1.0, "min_size": 1, "batch_size": 32, "insert_size": 8} | arguments))
    assert "\n" not in str(error.value)


def test_refused_tolerance_says_what_would_do():
    with pytest.raises(InputError, match="at least 20"):
        SamplesPerInsert(ratio=1.0, min_size=1, batch_size=32, insert_size=8, tolerance=19.0)
