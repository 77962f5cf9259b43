import json

import pytest

from marl.counters import Counter


def test_a_counter_goes_on_after_a_resume_without_the_time_in_between():
    now = [100.0]
    counter = Counter(clock=lambda: now[0])
    counter.env_steps, counter.updates, counter.episodes = 640, 5, 12
    now[0] = 130.0
    saved = json.loads(json.dumps(counter.state_dict()))
    now[0] = 5.0  # another machine's clock
    resumed = Counter(clock=lambda: now[0])
    now[0] = 9.0
    resumed.load_state_dict(saved)
    assert resumed.wall_seconds == 30.0
    now[0] = 11.5
    assert resumed.row() == {"env_steps": 640, "updates": 5, "episodes": 12, "wall_seconds": 32.5}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("env_steps", -1),
        ("updates", 1.5),
        ("episodes", None),
        ("updates", True),
        ("wall_seconds", "long"),
        ("wall_seconds", float("nan")),
        ("wall_seconds", -0.5),
    ],
)
def test_a_foreign_state_is_refused_and_changes_nothing(name, value):
    counter = Counter(clock=lambda: 0.0)
    counter.env_steps = 7
    with pytest.raises(ValueError, match=name):
        counter.load_state_dict(Counter().state_dict() | {"updates": 1, name: value})
    assert counter.env_steps == 7


def test_schedules_of_exploration_begin_anew_with_the_learner():
    counter = Counter(clock=lambda: 0.0)
    counter.env_steps, counter.began = 640, 600
    assert counter.steps_since_began == 40
