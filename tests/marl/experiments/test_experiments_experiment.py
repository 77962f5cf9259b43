"""Experiments: what they count, save, resume and refuse. MAPPO stands for any algorithm."""

import dataclasses

import pytest
import torch
from probes import DelayedCredit, Remember, Terminates, anything

from marl.algorithms.mappo import MAPPO, MAPPOConfig
from marl.algorithms.qmix import QMIX, QMIXConfig
from marl.checkpoints.checkpoint import list_checkpoints, load_checkpoint
from marl.checkpoints.checkpointer import Checkpointer
from marl.distributed.communicators import SerialCommunicator
from marl.errors import InputError
from marl.experiments.config import ExperimentConfig
from marl.experiments.experiment import Experiment, run_experiment
from marl.experiments.resource_usage import MACHINE
from marl.replay import ReplayConfig
from marl.specs import AgentSpec, ArraySpec, DiscreteActions

UPDATE = 4 * 6
GAME = anything(
    AgentSpec(name="a", observation=ArraySpec(shape=(2,)), action=DiscreteActions(num_actions=3), masked=True),
    AgentSpec(name="b", observation=ArraySpec(shape=(3,)), action=DiscreteActions(num_actions=2)),
)


class Rows:
    def __init__(self):
        self.rows = []

    def write(self, row):
        self.rows.append(dict(row))

    def close(self):
        pass


def config(environment=GAME, *, algorithm=(), **settings):
    chosen = {"hidden_sizes": (8,), "rollout_length": 6, "epochs": 2, **dict(algorithm)}
    return ExperimentConfig(
        **{
            "builder": MAPPO(config=MAPPOConfig(**chosen)),
            "environment": environment,
            "num_envs": 4,
            "steps": 6 * UPDATE,
            "evaluation_episodes": 0,
            **settings,
        }
    )


def equal(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def without_clock(rows):
    return [{k: v for k, v in row.items() if k not in MACHINE} for row in rows]


def test_a_row_an_update_counts_global_steps_and_updates():
    logger = Rows()
    result = run_experiment(config(), logger=logger)
    assert [row["env_steps"] for row in logger.rows] == [UPDATE * n for n in range(1, 7)]
    assert [row["updates"] for row in logger.rows] == list(range(1, 7))
    assert (result.counter.env_steps, result.counter.updates, result.stopped) == (6 * UPDATE, 6, False)
    assert result.counter.episodes == logger.rows[-1]["episodes"] > 0
    assert {"episode_return/mean", "episode_return/a", "a/policy_loss", "b/value_loss"} <= logger.rows[-1].keys()
    assert result.evaluation is None


def test_the_last_rollout_is_completed():
    result = run_experiment(config(steps=2 * UPDATE + 1))
    assert (result.counter.env_steps, result.counter.updates) == (3 * UPDATE, 3)


def test_rows_can_be_spared():
    logger = Rows()
    run_experiment(config(row_every=2 * UPDATE), logger=logger)
    assert [row["updates"] for row in logger.rows] == [2, 4, 6]


def test_equal_seeds_give_equal_runs_and_the_global_generator_plays_no_part():
    torch.manual_seed(1)
    first = run_experiment(config())
    state = torch.random.get_rng_state()
    torch.manual_seed(2)
    second = run_experiment(config())
    assert equal(first.learner_state, second.learner_state)
    assert not equal(first.learner_state, run_experiment(config(seed=1)).learner_state)
    torch.manual_seed(1)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_evaluation_changes_nothing_and_comes_at_its_times():
    plain = Rows()
    without = run_experiment(config(), logger=plain)
    logger = Rows()
    result = run_experiment(config(evaluation_episodes=5, evaluate_every=2 * UPDATE), logger=logger)
    assert [("evaluation/return_mean" in row) for row in logger.rows] == [*[False, True] * 3, True]
    assert equal(without.learner_state, result.learner_state)
    assert result.evaluation.summary()["evaluation/episodes"] == 5
    assert result.evaluation.summary().items() <= logger.rows[-1].items()


def test_measures_are_taken_at_their_times_and_at_the_end_and_change_nothing():
    taken = []

    def measure(spec, policies, progress):
        # They act as they learn, not greedily.
        assert all(policy.num_uniforms for policy in policies.values())
        assert sorted(policies) == [group.name for group in spec.groups]
        taken.append(None)
        return {"figure": float(len(taken))}

    logger = Rows()
    settings = {"row_every": 4 * UPDATE, "steps": 5 * UPDATE}
    result = run_experiment(config(measure=measure, measure_every=2 * UPDATE, **settings), logger=logger)
    assert [(row["updates"], row.get("figure")) for row in logger.rows] == [(2, 1.0), (4, 2.0), (5, 3.0)]
    assert result.measured == {"figure": 3.0}
    without = run_experiment(config(**settings))
    assert equal(without.learner_state, result.learner_state)
    assert without.measured == {}
    alone = Rows()
    run_experiment(config(measure=measure, **settings), logger=alone)
    assert [row.get("figure") for row in alone.rows] == [None, 4.0]


@pytest.mark.parametrize(
    ("environment", "algorithm"),
    [
        (GAME, {"minibatches": 3, "input_normalization": "running", "anneal_learning_rate": True}),
        (Remember, {"recurrent": True, "chunk_length": 4, "value_normalization": "popart"}),
    ],
    ids=["feed-forward", "recurrent"],
)
@pytest.mark.parametrize("stop", [1, 4])
def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(tmp_path, environment, algorithm, stop):
    chosen = config(environment, algorithm=algorithm)
    whole = Rows()
    undisturbed = run_experiment(chosen, logger=whole)
    logger, asked = Rows(), []
    stopped = run_experiment(
        chosen,
        logger=logger,
        checkpointer=Checkpointer(tmp_path),
        should_stop=lambda: asked.append(1) or len(asked) == stop,
    )
    assert stopped.stopped
    assert stopped.counter.updates == stop
    resumed = run_experiment(chosen, logger=logger, resume=load_checkpoint(tmp_path))
    assert not resumed.stopped
    assert equal(resumed.learner_state, undisturbed.learner_state)
    assert without_clock(logger.rows) == without_clock(whole.rows)


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_a_stop_comes_between_rows_and_the_rows_are_those_of_an_undisturbed_run(tmp_path, stop):
    chosen = config(row_every=4 * UPDATE, evaluation_episodes=3, evaluate_every=3 * UPDATE)
    whole = Rows()
    run_experiment(chosen, logger=whole)
    logger, asked = Rows(), []
    stopped = run_experiment(
        chosen,
        logger=logger,
        checkpointer=Checkpointer(tmp_path),
        should_stop=lambda: asked.append(1) or len(asked) == stop,
    )
    assert stopped.counter.updates == stop
    run_experiment(chosen, logger=logger, resume=load_checkpoint(tmp_path))
    assert without_clock(logger.rows) == without_clock(whole.rows)
    assert [row["updates"] for row in whole.rows] == [3, 4, 6, 6]


def test_a_wish_to_stop_travels_with_the_gradients_from_any_rank():
    class Another(SerialCommunicator):
        """Another rank, whose gradients are zero, and who wants to stop at its second update."""

        size = 2
        reduced = 0

        def all_reduce(self, tensor, operation="sum"):
            if tensor.numel() > 100:
                self.reduced += 1
                tensor[-1] += self.reduced > 2

        def broadcast(self, tensor, root=0):
            pass

    another = Another()
    result = Experiment(config(algorithm={"epochs": 2, "minibatches": 1}), another).run()
    assert (result.stopped, result.counter.updates, another.reduced) == (True, 2, 4)


def test_a_stop_is_heard_while_replay_fills():
    chosen = ExperimentConfig(
        builder=QMIX(config=QMIXConfig(mixer="none", team_reward=False)),
        environment=anything(
            AgentSpec(name="a", observation=ArraySpec(shape=(2,)), action=DiscreteActions(num_actions=3))
        ),
        num_envs=4,
        steps=10**9,
        evaluation_episodes=0,
    )
    result = run_experiment(chosen, should_stop=lambda: True)
    assert result.stopped
    assert result.counter.env_steps <= 400


def saved_steps(folder, chosen, *, resume=None):
    result = run_experiment(chosen, checkpointer=Checkpointer(folder, keep=10), resume=resume)
    return result, [int(path.name) for path in list_checkpoints(folder)]


def test_checkpoints_come_after_the_first_update_and_at_their_times_and_any_leads_to_the_same_end(tmp_path):
    chosen = config(checkpoint_every=2 * UPDATE)
    result, steps = saved_steps(tmp_path, chosen)
    assert steps == [UPDATE, 2 * UPDATE, 4 * UPDATE, 6 * UPDATE]
    for path in list_checkpoints(tmp_path):
        assert equal(run_experiment(chosen, resume=load_checkpoint(path)).learner_state, result.learner_state)


def test_the_first_checkpoint_does_not_wait_for_its_time(tmp_path):
    assert saved_steps(tmp_path / "long", config(checkpoint_every=10**9))[1] == [UPDATE, 6 * UPDATE]
    first = load_checkpoint(list_checkpoints(tmp_path / "long")[0])
    assert saved_steps(tmp_path / "resumed", config(checkpoint_every=10**9), resume=first)[1] == [6 * UPDATE]
    assert saved_steps(tmp_path / "none", config(checkpoint_every=None))[1] == [6 * UPDATE]


def test_checkpoints_come_by_the_clock_too_and_change_nothing(tmp_path):
    plain, _ = saved_steps(tmp_path / "plain", config())
    settings = {"row_every": 2 * UPDATE, "checkpoint_every": 10**9}
    result, steps = saved_steps(tmp_path / "clock", config(checkpoint_minutes=1e-9, **settings))
    # Clocks are compared at rows.
    assert steps == [UPDATE, 2 * UPDATE, 4 * UPDATE, 6 * UPDATE]
    assert equal(result.learner_state, plain.learner_state)
    assert saved_steps(tmp_path / "slow", config(checkpoint_minutes=1e9, **settings))[1] == [UPDATE, 6 * UPDATE]


@pytest.mark.parametrize("saved", [True, False])
def test_an_experiment_says_if_its_replay_starts_empty(tmp_path, saved):
    replay = ReplayConfig(capacity=200, batch_size=8, samples_per_insert=2.0, min_size=16, checkpoint=saved)
    chosen = config(builder=QMIX(config=QMIXConfig(hidden_sizes=(8,), replay=replay)))
    run_experiment(chosen, checkpointer=Checkpointer(tmp_path))
    experiment = Experiment(chosen)
    assert not experiment.refills
    experiment.load(load_checkpoint(tmp_path))
    assert experiment.refills is not saved


def test_what_is_learned_from_rollouts_is_never_refilled(tmp_path):
    run_experiment(config(), checkpointer=Checkpointer(tmp_path))
    experiment = Experiment(config())
    experiment.load(load_checkpoint(tmp_path))
    assert not experiment.refills


def test_a_resumed_run_can_be_given_more_steps(tmp_path):
    run_experiment(config(steps=3 * UPDATE), checkpointer=Checkpointer(tmp_path))
    longer = run_experiment(config(), resume=load_checkpoint(tmp_path))
    assert equal(longer.learner_state, run_experiment(config()).learner_state)


@pytest.mark.parametrize(
    "other",
    [
        config(DelayedCredit),
        config(algorithm={"hidden_sizes": (9,)}),
        config(algorithm={"recurrent": True}),
        config(algorithm={"input_normalization": "running"}),
        config(num_envs=5),
        config(num_envs=3),
    ],
    ids=["environment", "sizes", "recurrent", "normaliser", "more copies", "fewer copies"],
)
def test_a_checkpoint_of_something_else_is_refused_in_one_line(tmp_path, other):
    run_experiment(config(steps=UPDATE), checkpointer=Checkpointer(tmp_path))
    with pytest.raises(InputError, match="does not fit this experiment") as caught:
        run_experiment(other, resume=load_checkpoint(tmp_path))
    assert "\n" not in str(caught.value)


def test_more_ranks_than_copies_are_refused():
    class Many(SerialCommunicator):
        size = 5

    with pytest.raises(InputError, match="5 ranks cannot share 4 environment copies; raise --num-envs"):
        Experiment(config(), Many())


def test_only_rank_0_writes_rows_and_checkpoints(tmp_path):
    class Second(SerialCommunicator):
        rank, size = 1, 2

        def broadcast(self, tensor, root=0):
            pass

        def gather_rows(self, tensor):
            return tensor[:0]

    logger = Rows()
    result = Experiment(config(evaluation_episodes=4, num_envs=8), Second()).run(logger, Checkpointer(tmp_path))
    assert logger.rows == []
    assert list_checkpoints(tmp_path) == []
    assert len(result.evaluation.returns) == 0


def test_the_environment_is_closed_also_after_an_error():
    closed = []

    class Fragile(Terminates):
        def step(self, actions):
            raise ZeroDivisionError

        def close(self):
            closed.append(True)

    with pytest.raises(ZeroDivisionError):
        run_experiment(config(Fragile))
    assert closed == [True]


def test_a_config_is_a_value():
    assert dataclasses.replace(config(), seed=3).seed == 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        config().seed = 3


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"value_normalization": "popart", "hidden_sizes": ()}])
def test_a_refused_experiment_closes_its_environments(monkeypatch, wrong):
    made = []

    def environment(request):
        made.append(GAME(request))
        monkeypatch.setattr(made[-1], "close", lambda: made.append("closed"))
        return made[0]

    with pytest.raises(InputError):
        Experiment(config(environment=environment, algorithm=wrong))
    assert made[1:] == ["closed"]


def test_a_learner_without_gradients_stops_on_request_too():
    @dataclasses.dataclass(frozen=True)
    class Idle(MAPPO):
        def make_learner(self, spec, networks, dataset, context):
            learner = super().make_learner(spec, networks, dataset, context)
            learner.step = lambda: (dataset.sample(), {})[1]
            return learner

    experiment = Experiment(config(builder=Idle(config=MAPPOConfig(rollout_length=6)), steps=100_000))
    result = experiment.run(should_stop=lambda: True)
    experiment.close()
    assert result.stopped
    assert result.counter.env_steps < 2_000
