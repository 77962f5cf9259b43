import pytest
import torch
from scripted_steps import GAMMA, SPEC, Script, dataset_of, transitions
from torch.nn.utils.rnn import pad_sequence

from marl.adders.factory import make_replay_adder
from marl.adders.transitions import TransitionAdder
from marl.errors import InputError
from marl.replay import (
    FifoSelector,
    Priorities,
    Replay,
    SequenceDataset,
    SequenceItems,
    TransitionDataset,
    TransitionItems,
    UniformSelector,
)
from marl.replay.rate_limiter import SamplesPerInsert
from marl.specs import EnvironmentSpec
from marl.testing.threads import run_on_threads


def test_sampled_sequences_have_time_first():
    replay = Replay(SPEC, SequenceItems(length=5), capacity=1000, num_envs=3)
    Script(0, 3, 40).play(make_replay_adder(replay, discount=GAMMA), 0, 40)
    dataset = dataset_of(replay, batch_size=7)
    assert dataset.ready()
    sample = dataset.sample()
    assert sample.groups["left"].observations.shape == (6, 7, 2, 4)
    assert sample.groups["right"].actions.shape == (5, 7, 1, 2)
    assert sample.groups["right"].action_masks is None
    assert sample.state.shape == (6, 7, 3)
    assert sample.valid.shape == sample.learn.shape == sample.discounts.shape == (5, 7)
    assert sample.valid[0].all()


KINDS = {
    "transitions": (TransitionItems(n_step=3), None),
    "prioritized": (TransitionItems(), Priorities()),
    "episodes": (SequenceItems(length=6), None),
    "prioritized sequences": (SequenceItems(length=4, burn_in=1), Priorities(beta=0.7)),
    "fifo": (TransitionItems(), "fifo"),
    "fifo sequences": (SequenceItems(length=3, period=2), "fifo"),
}


GLOBAL_ENVS, SPLITS = 6, {1: (6,), 2: (3, 3), 3: (1, 3, 2)}


def build(kind, rank, size, communicator, *, save=False):
    items, choice = KINDS[kind]
    num_envs, first = SPLITS[size][rank], sum(SPLITS[size][:rank])
    replay = Replay(
        SPEC,
        items,
        capacity=120,
        num_envs=num_envs,
        first_env=first,
        global_num_envs=GLOBAL_ENVS,
        communicator=communicator,
        save=save,
    )
    if choice == "fifo":
        make = TransitionDataset if replay.in_step else SequenceDataset
        dataset = make(replay, FifoSelector(replay), None, batch_size=16)
    else:
        dataset = dataset_of(replay, batch_size=16, ratio=2.5, min_size=40, seed=3, priorities=choice)
    return replay, make_replay_adder(replay, discount=GAMMA), dataset, Script(first, num_envs, 90, mishaps=0.1)


def learn(replay, dataset, log, step):
    while dataset.ready():
        sample = dataset.sample()
        assert sample.global_batch_size == 16
        state = sample.state if replay.in_step else sample.state[0]
        for i, place in enumerate(sample.positions.tolist()):
            log[step, dataset.samples, place] = (*state[i].tolist(), float(sample.weights[i]))
        # Errors that depend on the item and on the time alone.
        dataset.update_priorities(sample.indices, (state * torch.tensor([1.0, 3.0, 7.0])).sum(1).cos() + step / 30)


def run_script(kind, size, communicator, start=0, stop=90, saved=None, save=False):
    rank = 0 if communicator is None else communicator.rank
    replay, adder, dataset, script = build(kind, rank, size, communicator, save=save)
    if saved is not None:
        shared, rows = saved
        envs = slice(replay.first_env, replay.first_env + replay.num_envs)
        dataset.load_state_dict(shared)
        dataset.load_env_state_dict({name: tensor[envs] for name, tensor in rows["dataset"].items()})
        adder.load_env_state_dict({name: tensor[envs] for name, tensor in rows["adder"].items()})
        adder.add_first(script.timestep(start))
    log, steps = {}, iter(range(start, stop))
    script.play(adder, start, stop, lambda: learn(replay, dataset, log, next(steps)))
    return log, dataset, adder


def joined(parts):
    """Rows of all ranks; those with fewer columns are padded with zeros, as in checkpoints."""
    if parts[0].dim() == 1:
        return torch.cat(parts)
    return pad_sequence([row for part in parts for row in part], batch_first=True)


@pytest.mark.parametrize("kind", KINDS)
def test_ranks_together_draw_what_one_rank_draws(kind):
    expected, *_ = run_script(kind, 1, None)
    assert len(expected) >= 16 * 10
    for size in (2, 3):
        logs = [
            log
            for log, *_ in run_on_threads(size, lambda communicator, size=size: run_script(kind, size, communicator))
        ]
        assert sum(map(len, logs)) == len(expected)
        assert {place: item for log in logs for place, item in log.items()} == expected


@pytest.mark.parametrize("kind", KINDS)
def test_saved_replay_goes_on_as_if_nothing_had_happened_on_another_number_of_ranks(kind):
    expected, *_ = run_script(kind, 1, None)
    parts = run_on_threads(2, lambda communicator: run_script(kind, 2, communicator, stop=50, save=True))
    shared = parts[0][1].state_dict()
    for name, tensor in parts[1][1].state_dict().items():
        assert torch.equal(shared[name], tensor)
    rows = {}
    for name, place in (("dataset", 1), ("adder", 2)):
        states = [part[place].env_state_dict() for part in parts]
        rows[name] = {key: joined([state[key] for state in states]) for key in states[0]}
    logs = [part[0] for part in parts]
    for size in (1, 3):
        rest = run_on_threads(
            size,
            lambda communicator, size=size: run_script(
                kind, size, communicator, start=50, saved=(shared, rows), save=True
            ),
        )
        assert {p: item for log in [*logs, *(part[0] for part in rest)] for p, item in log.items()} == expected


def test_a_run_resumed_without_its_records_fills_replay_anew_and_repeats_no_batch():
    _, dataset, adder = run_script("transitions", 1, None, stop=50)
    assert dataset.env_state_dict() == {}
    assert adder.env_state_dict() == {}
    _, adder, resumed, script = build("transitions", 0, 1, None)
    resumed.load_state_dict(dataset.state_dict())
    assert not resumed.refills
    resumed.load_env_state_dict({})
    assert resumed.refills
    adder.load_env_state_dict({})
    adder.add_first(script.timestep(50))
    script.play(adder, 50, 54, lambda: None)
    assert not resumed.ready()
    script.play(adder, 54, 60, lambda: None)
    assert resumed.ready()
    assert resumed.samples == 0
    assert resumed._draws == dataset._draws > 0


def test_nothing_is_sampled_before_a_whole_batch_is_stored():
    replay = transitions(2)
    dataset = dataset_of(replay, batch_size=10)
    readiness = []
    script = Script(0, 2, 6)
    script.play(TransitionAdder(replay, discount=GAMMA), 0, 4, lambda: readiness.append(dataset.ready()))
    assert readiness == [False] * 4
    with pytest.raises(ValueError, match="batch of 10 was asked of 8"):
        dataset.sample()


@pytest.mark.parametrize(
    "make",
    [
        lambda: transitions(4, capacity=3),
        lambda: transitions(1, n_step=2, spec=EnvironmentSpec(groups=SPEC.groups, turn_based=True)),
        lambda: TransitionItems(n_step=0),
        lambda: SequenceItems(length=0),
        lambda: SequenceItems(length=4, period=5),
        lambda: SequenceItems(length=4, period=3, burn_in=2),
        lambda: SequenceItems(length=4, burn_in=4),
        lambda: Priorities(alpha=-1.0),
        lambda: Priorities(beta=1.5),
        lambda: TransitionAdder(transitions(1), discount=1.5),
        lambda: dataset_of(transitions(1, capacity=10), batch_size=11),
        lambda: dataset_of(transitions(1, capacity=10), batch_size=5, min_size=11),
        lambda: dataset_of(transitions(1, capacity=10), batch_size=5, ratio=0.0),
        lambda: (lambda r: TransitionDataset(r, UniformSelector(r, seed=0), None, batch_size=1))(transitions(1)),
        lambda: (lambda r: TransitionDataset(r, FifoSelector(r), None, batch_size=9))(transitions(2, capacity=10)),
        lambda: dataset_of((r := transitions(1)), batch_size=1, selector=FifoSelector(r)),
    ],
)
def test_choices_that_cannot_work_are_refused_in_one_line(make):
    with pytest.raises(InputError) as error:
        make()
    assert "\n" not in str(error.value)


def test_limiter_of_another_batch_size_is_refused():
    replay = transitions(2)
    limiter = SamplesPerInsert(ratio=1.0, min_size=1, batch_size=4, insert_size=2)
    with pytest.raises(ValueError, match="limiter"):
        TransitionDataset(replay, UniformSelector(replay, seed=0), limiter, batch_size=8)
