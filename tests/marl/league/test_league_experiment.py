"""Leagues as they run: what they leave, that they resume exactly, and what they refuse."""

import dataclasses

import numpy as np
import pytest
import torch
from probes import anything

from marl.algorithms.maddpg import MADDPG
from marl.algorithms.mappo import MAPPO, MAPPOConfig
from marl.algorithms.nfsp import NFSP
from marl.algorithms.qmix import QMIX, QMIXConfig
from marl.checkpoints.checkpoint import load_checkpoint
from marl.checkpoints.checkpointer import Checkpointer
from marl.core import EnvironmentRequest
from marl.errors import InputError
from marl.experiments.config import ExperimentConfig
from marl.experiments.resource_usage import MACHINE
from marl.league.config import LeagueConfig
from marl.league.experiment import LeagueExperiment
from marl.league.matchmaking import PFSP, Matchmaking, QualityScores, Window
from marl.league.roles import Exploiter, MainPlayer, Oracle, SelfPlayer
from marl.replay import ReplayConfig
from marl.specs import AgentSpec, ArraySpec, ContinuousActions, DiscreteActions
from marl.testing.fake_environment import FakeVectorEnvironment

SEEN, THREE = ArraySpec(shape=(2,)), DiscreteActions(num_actions=3)


PAIR = (
    AgentSpec(name="p_0", observation=SEEN, action=THREE, masked=True),
    AgentSpec(name="p_1", observation=SEEN, action=THREE, masked=True),
)


TURNS = anything(*PAIR, turns=True)


REAL = ContinuousActions(low=(-1.0, -1.0), high=(1.0, 1.0))


ROLES = anything(
    AgentSpec(name="hunter_0", observation=SEEN, action=THREE),
    AgentSpec(name="hunter_1", observation=SEEN, action=THREE),
    AgentSpec(name="prey", observation=ArraySpec(shape=(3,)), action=REAL),
)


THREESOME = anything(*(AgentSpec(name=f"p_{i}", observation=SEEN, action=THREE) for i in range(3)))


UPDATE = 6 * 8


def config(environment=TURNS, learners=None, *, algorithm=(), directory=None, swap_steps=None, **settings):
    chosen = {"centralized_critic": False, "hidden_sizes": (8,), "rollout_length": 8, "epochs": 2, **dict(algorithm)}
    return LeagueConfig(
        experiment=ExperimentConfig(
            **{
                "builder": MAPPO(config=MAPPOConfig(**chosen)),
                "environment": environment,
                "num_envs": 6,
                "steps": 8 * UPDATE,
                "evaluation_episodes": 0,
                **settings,
            }
        ),
        learners=learners or {"main": SelfPlayer(matchmaking=Window(window=3), save_steps=2 * UPDATE)},
        directory=directory,
        swap_steps=swap_steps,
    )


class Rows:
    def __init__(self):
        self.rows = []

    def write(self, row):
        self.rows.append({k: v for k, v in row.items() if k not in MACHINE})

    def close(self):
        pass


def equal(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def trained(chosen, **settings):
    experiment = LeagueExperiment(chosen)
    try:
        resume = settings.pop("resume", None)
        if resume is not None:
            experiment.load(resume)
        return experiment, experiment.run(**settings)
    finally:
        experiment.close()


def test_a_run_leaves_snapshots_at_their_times_and_counts_games():
    logger = Rows()
    experiment, result = trained(config(evaluation_episodes=6), logger=logger)
    assert result.counter.env_steps == 8 * UPDATE
    assert [s.env_steps for s in experiment.league.snapshots] == [0, 2 * UPDATE, 4 * UPDATE, 6 * UPDATE, 8 * UPDATE]
    assert len({s.digest for s in experiment.league.snapshots}) == 5
    *rows, final = logger.rows
    assert sum(row["main/games"] for row in rows) == experiment.league.payoffs.games()[0].sum()
    assert result.counter.episodes >= experiment.league.payoffs.games()[0].sum() > 0
    summary = result.evaluation.summary()
    assert summary["evaluation/episodes"] == 6
    assert 0 <= summary["evaluation/score"] <= 1
    assert {"evaluation/score/p_0", "evaluation/losses/p_1"} <= summary.keys()
    assert summary.items() <= final.items()
    rates = [summary[f"evaluation/random/{kind}_rate/p_0"] for kind in ("win", "draw", "loss")]
    assert rates[0] + rates[1] / 2 == pytest.approx(summary["evaluation/score/p_0"])
    assert sum(rates) == pytest.approx(1.0)


def test_one_evaluated_game_has_no_score_from_the_other_side():
    _, result = trained(config(evaluation_episodes=1, steps=UPDATE))
    summary = result.evaluation.summary()
    assert "evaluation/score/p_0" in summary
    assert "evaluation/score/p_1" not in summary


def test_games_of_an_evaluation_that_do_not_end_are_draws_and_counted():
    _, result = trained(config(evaluation_episodes=6, evaluation_max_steps=1, steps=UPDATE))
    summary = result.evaluation.summary()
    assert summary["evaluation/step_limits"] > 3
    assert summary["evaluation/episode_length"] < 2


def test_measured_games_fill_the_table_between_snapshots():
    chosen = dataclasses.replace(config(steps=4 * UPDATE), measure_games=6)
    experiment, _ = trained(chosen)
    names = experiment.league.past()
    rows = [experiment.league.payoffs.index(name) for name in names]
    between = experiment.league.payoffs.counts[rows][:, rows].sum(-1)
    expected = torch.full((len(names), len(names)), 3).fill_diagonal_(0)
    assert torch.equal(between, expected)
    with pytest.raises(InputError, match="two sides"):
        LeagueExperiment(dataclasses.replace(config(THREESOME), measure_games=2))


def test_psro_without_measured_games_is_refused():
    """It would meet all its snapshots alike, whatever its meta-strategy."""
    with pytest.raises(InputError, match="measure_games"):
        LeagueExperiment(config(learners={"main": Oracle(save_steps=UPDATE)}))


LEAGUE = {
    "main": MainPlayer(matchmaking=PFSP(), save_steps=2 * UPDATE),
    "main-exploiter-0": Exploiter(min_steps=UPDATE, max_steps=2 * UPDATE, min_games=2, win_rate=0.5),
    "league-exploiter-0": Exploiter(target=None, min_steps=UPDATE, max_steps=3 * UPDATE, min_games=2),
}


def interrupted(chosen, number, folder):
    """A league that stops when it is asked for the given time, and goes on: its rows, how many of them before, it."""
    logger, asked, saved = Rows(), [], Checkpointer(folder)
    _, stopped = trained(
        chosen, logger=logger, checkpointer=saved, should_stop=lambda: asked.append(1) or len(asked) == number
    )
    assert stopped.stopped
    before = len(logger.rows)
    again, resumed = trained(chosen, logger=logger, resume=load_checkpoint(saved.directory))
    return logger, before, again, resumed


@pytest.mark.parametrize("files", [True, False], ids=["files", "memory"])
@pytest.mark.parametrize(
    ("environment", "learners", "settings"),
    [
        (TURNS, lambda: None, {"algorithm": {"recurrent": True, "chunk_length": 4}, "swap_steps": 3 * UPDATE}),
        (ROLES, lambda: LEAGUE, {"algorithm": {"centralized_critic": True, "minibatches": 2}, "steps": 12 * UPDATE}),
        (
            THREESOME,
            lambda: {"main": SelfPlayer(matchmaking=QualityScores(latest_ratio=0.3), save_steps=UPDATE)},
            {},
        ),
    ],
    ids=["recurrent turns", "roles", "three players"],
)
def test_a_stopped_league_goes_on_as_if_it_had_not_stopped(tmp_path, environment, learners, settings, files):
    whole = Rows()

    def chosen(name):
        return config(environment, learners(), directory=tmp_path / name if files else None, **settings)

    league, undisturbed = trained(chosen("whole"), logger=whole)
    rounds = len(whole.rows)
    for stop in (1, rounds // 2):
        number = 1 + (stop - 1) * len(league.players)
        logger, _, again, resumed = interrupted(chosen(f"{stop}"), number, tmp_path / f"saved {stop}")
        assert equal(resumed.learner_state, undisturbed.learner_state)
        assert logger.rows == whole.rows
        assert again.league.snapshots == league.league.snapshots
        assert torch.equal(again.league.payoffs.counts, league.league.payoffs.counts)


def from_replay(**settings):
    """Independent Q-learners that learn almost at once, and whose replay is saved."""
    replay = ReplayConfig(capacity=600, batch_size=12, samples_per_insert=2.0, min_size=60, checkpoint=True)
    chosen = {"hidden_sizes": (8,), "replay": replay, "epsilon_decay_steps": 200, **settings}
    return QMIX(config=QMIXConfig(mixer="none", team_reward=False, **chosen))


@pytest.mark.parametrize("environment", [TURNS, anything(*PAIR)], ids=["turns", "together"])
def test_a_league_that_learns_from_replay_goes_on_as_if_it_had_not_stopped(tmp_path, environment):
    whole = Rows()

    def chosen(name):
        return config(environment, LEAGUE, directory=tmp_path / name, builder=from_replay(), steps=24 * UPDATE)

    league, undisturbed = trained(chosen("whole"), logger=whole)
    assert any(row["epsilon"] < 0.5 for row in whole.rows)
    # Exploiters began anew: once more at random, and with an empty replay.
    assert league.players["main-exploiter-0"].counter.began > 0
    assert league.players["main"].counter.began == 0
    rounds = len(whole.rows)
    for asks in (1, 12):
        logger, before, again, resumed = interrupted(chosen(f"{asks}"), asks, tmp_path / f"saved {asks}")
        assert 0 < before < rounds
        assert equal(resumed.learner_state, undisturbed.learner_state)
        assert logger.rows == whole.rows
        assert again.league.snapshots == league.league.snapshots


@pytest.mark.parametrize("saved", [True, False])
@pytest.mark.parametrize("wrap", [lambda builder: builder, lambda builder: NFSP(best_response=builder)])
def test_a_league_says_if_its_replay_starts_empty(tmp_path, wrap, saved):
    builder = from_replay()
    replay = dataclasses.replace(builder.config.replay, checkpoint=saved)
    builder = wrap(QMIX(config=dataclasses.replace(builder.config, replay=replay)))
    chosen = config(anything(*PAIR), builder=builder, steps=4 * UPDATE)
    first, _ = trained(chosen, checkpointer=Checkpointer(tmp_path))
    assert not first.refills
    resumed, _ = trained(chosen, resume=load_checkpoint(tmp_path))
    assert resumed.refills is not saved


def test_a_league_shows_its_main_players_spec_and_parameters():
    league = LeagueExperiment(config(learners=LEAGUE))
    main = league.players["main"]
    assert league.spec == main.spec
    variables = main.learner.get_variables().values()
    assert league.num_parameters == main.num_parameters == sum(tensor.numel() for tensor in variables) > 0
    assert not league.refills
    league.close()


def test_a_league_is_refused_where_it_does_not_fit(tmp_path):
    trained(config(steps=UPDATE), checkpointer=Checkpointer(tmp_path))
    saved = load_checkpoint(tmp_path)
    for other in (config(learners=LEAGUE), config(num_envs=5), config(ROLES), config(algorithm={"hidden_sizes": (9,)})):
        with pytest.raises(InputError, match="does not fit this experiment") as caught:
            trained(other, resume=saved)
        assert "\n" not in str(caught.value)


def test_a_league_whose_snapshot_was_lost_does_not_begin(tmp_path):
    chosen = config(steps=2 * UPDATE, directory=tmp_path / "snapshots")
    experiment, _ = trained(chosen, checkpointer=Checkpointer(tmp_path / "checkpoints"))
    lost = experiment.league.snapshots[0].digest
    (tmp_path / "snapshots" / f"{lost}.safetensors").unlink()
    with pytest.raises(InputError, match=lost):
        trained(chosen, resume=load_checkpoint(tmp_path / "checkpoints"))


def test_an_exploiter_begins_anew_after_its_snapshot():
    learners = {
        "main": MainPlayer(save_steps=UPDATE),
        "exploiter": Exploiter(min_steps=UPDATE, max_steps=2 * UPDATE, min_games=10**6),
    }
    experiment, _ = trained(config(learners=learners, steps=8 * UPDATE))
    exploiter = experiment.players["exploiter"].learner
    assert [s.env_steps for s in experiment.league.snapshots if s.learner == "exploiter"] == [0, 2 * UPDATE, 4 * UPDATE]
    first = experiment.league.store.get(experiment.league.snapshot("exploiter-0000").digest)
    assert equal(exploiter.get_variables(), first)


def test_opponents_leave_no_trace_in_the_learners_gradients():
    """What opponents did and received may be anything: the update is the same."""
    weights = []
    for factor in (1.0, 1000.0):
        experiment = LeagueExperiment(config(ROLES, {"main": SelfPlayer(matchmaking=AlwaysFirst())}, steps=UPDATE))
        experiment.start()
        player = experiment.players["main"]
        dataset = player.dataset
        own = []
        while not dataset.ready():
            own.append(player.actor._adder.own)
            player.loop.step()
        for name, group in dataset._groups.items():
            theirs = ~torch.stack([seats[name] for seats in own])
            assert bool(theirs.any())
            assert not bool(theirs.all())
            for tensor in (group.rewards, group.observations[:-1]):
                tensor[theirs] *= factor
            group.extras["log_probs"][theirs] -= factor / 100
        player.learner.step()
        weights.append({k: v.clone() for k, v in player.learner.get_variables().items()})
        experiment.close()
    for name, tensor in weights[0].items():
        assert bool(torch.isfinite(weights[1][name]).all())
        torch.testing.assert_close(weights[1][name], tensor, rtol=1e-5, atol=1e-6)


class AlwaysFirst(Matchmaking):
    """The oldest candidate, always."""

    def probabilities(self, payoffs, learner, candidates):
        return np.eye(len(candidates))[0]


def test_self_play_refuses_what_it_cannot_learn_from():
    with pytest.raises(InputError, match="team reward"):
        LeagueExperiment(config(algorithm={"team_reward": True}))
    alone = anything(AgentSpec(name="a", observation=SEEN, action=THREE))
    with pytest.raises(InputError, match="nobody to play against"):
        LeagueExperiment(config(alone))
    with pytest.raises(InputError, match="team reward"):
        LeagueExperiment(config(anything(*PAIR), builder=QMIX(config=QMIXConfig(mixer="vdn")), steps=100_000))
    nfsp = NFSP(best_response=QMIX(config=QMIXConfig(mixer="vdn")))
    with pytest.raises(InputError, match="team reward"):
        LeagueExperiment(config(anything(*PAIR), builder=nfsp, steps=100_000))
    with pytest.raises(InputError, match="take opponents for its own"):
        LeagueExperiment(config(anything(*PAIR), builder=MADDPG(), steps=100_000))
    with pytest.raises(InputError, match="at least one player"):
        LeagueExperiment(dataclasses.replace(config(), learners={}))


def test_fake_games_of_any_spec_can_be_learned():
    agents = (
        AgentSpec(name="p_0", observation=SEEN, action=REAL),
        AgentSpec(name="p_1", observation=SEEN, action=REAL),
    )
    spec = anything(*agents)

    def game(request):
        return FakeVectorEnvironment(
            spec(EnvironmentRequest(num_envs=1, with_state=request.with_state)).spec,
            num_envs=request.num_envs,
            first_env=request.first_env,
            seed=request.seed,
            purpose=request.purpose,
            death_rate=0.1,
        )

    _, result = trained(config(game, evaluation_episodes=4))
    assert all(bool(torch.isfinite(tensor).all()) for tensor in result.learner_state.values())


LIFE = 3 * UPDATE
"""Environment steps between restarts."""
RESTARTING = {
    "oracle": {"main": Oracle(save_steps=LIFE)},
    "exploiter": {
        "main": MainPlayer(save_steps=2 * UPDATE),
        "exploiter": Exploiter(min_steps=LIFE, max_steps=LIFE, min_games=10**6),
    },
}


@pytest.mark.parametrize("kind", RESTARTING)
@pytest.mark.parametrize("resumed", [False, True])
def test_each_life_of_a_player_that_restarts_anneals_its_step_size_from_the_beginning(kind, resumed, tmp_path):
    learners = RESTARTING[kind]
    annealed = {"anneal_learning_rate": True, "learning_rate": 0.3}
    chosen = config(learners=learners, steps=len(learners) * 2 * LIFE, algorithm=annealed)
    if kind == "oracle":
        chosen = dataclasses.replace(chosen, measure_games=2)
    if resumed:
        logger, *_ = interrupted(chosen, len(learners) * 4, tmp_path)
    else:
        logger = Rows()
        trained(chosen, logger=logger)
    prefix = "" if kind == "oracle" else "exploiter/"
    rates = [row[f"{prefix}learning_rate"] for row in logger.rows]
    assert rates == pytest.approx(2 * [0.3, 0.2, 0.1])
