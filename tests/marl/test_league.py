"""Leagues: snapshots that are never lost, results that add up, roles, and runs that resume exactly."""

import dataclasses

import numpy as np
import pytest
import torch
from probes import anything

from algorithms.mappo import MAPPO, MAPPOConfig
from algorithms.qmix import QMIX, QMIXConfig
from marl.checkpoints import Checkpointer, load_checkpoint
from marl.communicators import SerialCommunicator
from marl.core import EnvironmentRequest
from marl.errors import InputError
from marl.experiment import ExperimentConfig
from marl.league import (
    Exploiter,
    League,
    LeagueOpponents,
    MainPlayer,
    Oracle,
    Results,
    SelfPlayer,
    SnapshotStore,
    alpha_rank_mixture,
    nash_mixture,
    read_snapshot,
    uniform_mixture,
)
from marl.league_experiment import LeagueConfig, LeagueExperiment
from marl.matchmaking import PFSP, Latest, QualityScores, UniformPast, Window
from marl.payoffs import DRAW, LOSS, WIN
from marl.self_play import LEARNER, RANDOM
from marl.specs import AgentSpec, ArraySpec, ContinuousActions, DiscreteActions
from marl.testing import FakeVectorEnvironment
from marl.usage import MACHINE

SERIAL = SerialCommunicator()
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


def parameters(number):
    return {"policy.weight": torch.full((2, 3), float(number)), "policy.bias": torch.arange(number + 1)}


def league_of(*names, store=None, role=None, **settings):
    learners = {name: role or SelfPlayer(matchmaking=UniformPast()) for name in names}
    league = League(learners, SnapshotStore() if store is None else store, **settings)
    for number, name in enumerate(names):
        league.take_snapshot(name, parameters(number), 0, SERIAL)
    league.refresh()
    return league


def games(league, rows, *, sides=2):
    """Results from (own side, opponent's number, own return, opponent's return) rows."""
    results = Results(len(league.players), sides)
    for side, opponent, own, other in rows:
        players, returns = torch.full((1, 2), opponent), torch.full((1, 2), other)
        players[0, side], returns[0, side] = LEARNER, own
        results.add(players, returns)
    return results


def test_snapshots_are_found_by_what_is_in_them(tmp_path):
    store = SnapshotStore(tmp_path / "snapshots")
    digests = [store.put(parameters(number)) for number in (0, 1, 0)]
    assert digests[0] == digests[2] != digests[1]
    assert sorted(path.stem for path in (tmp_path / "snapshots").iterdir()) == sorted(digests[:2])
    again = SnapshotStore(tmp_path / "snapshots").get(digests[1])
    assert again.keys() == parameters(1).keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in parameters(1).items())


def test_a_snapshot_does_not_change_with_the_learner():
    store, weights = SnapshotStore(), parameters(1)
    digest = store.put(weights)
    weights["policy.weight"].zero_()
    assert bool((store.get(digest)["policy.weight"] == 1).all())


def test_few_snapshots_are_kept_in_memory_where_there_are_files(tmp_path):
    store = SnapshotStore(tmp_path, at_hand=2)
    digests = [store.put(parameters(number)) for number in range(5)]
    assert len(store._memory) == 2
    for number, digest in enumerate(digests):
        assert torch.equal(store.get(digest)["policy.bias"], torch.arange(number + 1))


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data[:-1] + bytes([data[-1] ^ 1]), None])
def test_a_snapshot_that_is_missing_or_damaged_is_named(tmp_path, damage):
    digest = SnapshotStore(tmp_path).put(parameters(3))
    (path,) = tmp_path.iterdir()
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=digest):
        SnapshotStore(tmp_path).get(digest)
    with pytest.raises(InputError, match=digest):
        read_snapshot(path)


def test_other_ranks_write_nothing(tmp_path):
    store = SnapshotStore(tmp_path / "snapshots", writes=False)
    store.put(parameters(0))
    assert not (tmp_path / "snapshots").exists()


def test_results_count_for_the_seat_in_which_they_were_played():
    league = league_of("main")
    main, past = 0, 1
    rows = [(0, past, 1.0, -1.0), (0, past, 1.0, -1.0), (1, past, 1.0, -1.0), (1, past, 0.0, 0.0), (0, past, -1.0, 1.0)]
    total = league.add_results("main", games(league, rows), SERIAL)
    counts = league.payoffs.counts
    assert counts[main, past].tolist() == [1, 0, 2]
    # In the other seat the snapshot sat first: its losses are the learner's wins.
    assert counts[past, main, LOSS] == 1
    assert counts[past, main, DRAW] == 1
    assert counts[past, main, WIN] == 0
    assert league.payoffs.win_rates()[main, past] == pytest.approx((2 + 1 + 0.5) / 5)
    assert league.payoffs.returns[main, past].tolist() == [1.0, -1.0]
    assert total.sides.tolist() == [[3.0, 2.0], [2.0, 1.5]]


def test_games_against_itself_and_against_random_players_count_for_nothing():
    league = league_of("main")
    results = Results(2, 2)
    results.add(torch.tensor([[LEARNER, LEARNER], [LEARNER, RANDOM]]), torch.tensor([[1.0, -1.0], [1.0, -1.0]]))
    league.add_results("main", results, SERIAL)
    assert int(league.payoffs.counts.sum()) == 0


def test_in_a_game_of_three_each_opponent_is_a_game():
    league = league_of("main")
    results = Results(2, 3)
    results.add(torch.tensor([[1, LEARNER, 1]]), torch.tensor([[3.0, 2.0, 1.0]]))
    league.add_results("main", results, SERIAL)
    assert league.payoffs.counts[1, 0].tolist() == [0, 0, 1]
    assert league.payoffs.counts[0, 1].tolist() == [0, 0, 1]


def test_ranks_count_what_one_process_counts():
    class Ranks(SerialCommunicator):
        size = 2

        def all_reduce(self, tensor, operation="sum"):
            tensor.mul_(2)

    one, two = league_of("main"), league_of("main")
    rows = [(0, 1, 1.0, -1.0), (1, 1, 0.0, 0.0)]
    one.add_results("main", games(one, rows * 2), SERIAL)
    two.add_results("main", games(two, rows), Ranks())
    assert torch.equal(one.payoffs.counts, two.payoffs.counts)
    assert torch.equal(one.payoffs.returns, two.payoffs.returns)


def test_old_games_fade_for_matchmaking_but_are_not_forgotten():
    league = league_of("main", memory=100)
    for _ in range(20):
        league.add_results("main", games(league, [(0, 1, -1.0, 1.0)] * 10), SERIAL)
    for _ in range(20):
        league.add_results("main", games(league, [(0, 1, 1.0, -1.0)] * 10), SERIAL)
    assert league.payoffs.win_rates()[0, 1] == 0.5
    assert league.recent.win_rates()[0, 1] > 0.75
    assert league.recent.games()[0, 1] <= 110


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (Latest(), [1.0, 0.0, 0.0, 0.0]),
        (UniformPast(), [0.25, 0.25, 0.25, 0.25]),
        (Window(window=2, play_against_latest_model_ratio=0.4), [0.4, 0.0, 0.3, 0.3]),
        (PFSP(prior_games=0), np.array([0.25, 1.0, 0.25, 0.0]) / 1.5),
    ],
    ids=["latest", "uniform", "window", "pfsp"],
)
def test_matchmaking_chooses_among_the_own_past_and_itself(rule, expected):
    league = league_of("main", role=SelfPlayer(matchmaking=rule))
    for number in (1, 2):
        league.take_snapshot("main", parameters(number), number, SERIAL)
    league.add_results("main", games(league, [(0, 1, -1.0, 1.0), (0, 3, 1.0, -1.0)]), SERIAL)
    league.refresh()
    assert league.players == ("main", "main-0000", "main-0001", "main-0002")
    np.testing.assert_allclose(league.probabilities("main"), expected)


def test_alphastars_main_player_meets_itself_everybodys_past_and_exploiters():
    roles = {"main": MainPlayer(matchmaking=UniformPast()), "exploiter": Exploiter(), "league": Exploiter(target=None)}
    league = League(roles, SnapshotStore())
    for name in roles:
        league.take_snapshot(name, parameters(0), 0, SERIAL)
    league.refresh()
    main = league.probabilities("main")
    assert main.sum() == pytest.approx(1.0)
    third = (1 - 0.35 - 0.15) / 3
    np.testing.assert_allclose(main, [0.35, 0, 0, third, third + 0.075, third + 0.075])
    np.testing.assert_allclose(league.probabilities("exploiter"), [0, 0, 0, 1, 0, 0])
    np.testing.assert_allclose(league.probabilities("league"), [0, 0, 0, 1 / 3, 1 / 3, 1 / 3])


def test_a_main_exploiter_without_hope_plays_the_main_players_past():
    roles = {"main": MainPlayer(), "exploiter": Exploiter(min_games=5)}
    league = League(roles, SnapshotStore())
    league.take_snapshot("main", parameters(0), 0, SERIAL)
    league.take_snapshot("main", parameters(1), 1, SERIAL)
    league.take_snapshot("exploiter", parameters(2), 0, SERIAL)
    newest = league.payoffs.index("main-0001")
    league.refresh()
    assert league.probabilities("exploiter")[newest] == 1.0
    league.add_results("exploiter", games(league, [(0, newest, -1.0, 1.0)] * 6), SERIAL)
    league.refresh()
    easier = league.payoffs.index("main-0000")
    # By x (1 - x): one half against the unknown, 0.5 / 7 with the imaginary game against the newest.
    assert league.probabilities("exploiter")[easier] == pytest.approx(0.25 / (0.25 + 0.5 * 6.5 / 49))


def test_an_exploiter_is_done_when_it_wins_or_when_its_time_is_over():
    role = Exploiter(min_games=10, win_rate=0.7, min_steps=100, max_steps=1000)
    league = League({"main": MainPlayer(), "exploiter": role}, SnapshotStore())
    league.take_snapshot("main", parameters(0), 0, SERIAL)
    league.take_snapshot("exploiter", parameters(1), 0, SERIAL)
    row = league.payoffs.index("main-0000")
    league.add_results("exploiter", games(league, [(0, row, 1.0, -1.0)] * 9), SERIAL)
    assert not role.snapshot_due(league, "exploiter", 500)  # too few games
    league.add_results("exploiter", games(league, [(0, row, 1.0, -1.0)] * 2), SERIAL)
    assert not role.snapshot_due(league, "exploiter", 50)
    assert role.snapshot_due(league, "exploiter", 500)
    league.forget("exploiter")
    assert not role.snapshot_due(league, "exploiter", 500)
    assert role.snapshot_due(league, "exploiter", 1000)
    assert int(league.payoffs.games()[row, 1]) == 11


def opponents_of(league, *, num_envs=64, first_copy=0, **settings):
    return LeagueOpponents(
        league, "main", None, num_sides=2, num_envs=num_envs, first_copy=first_copy, seed=5, **settings
    )


def test_matches_are_the_same_however_copies_are_spread_over_ranks():
    league = league_of("main", role=SelfPlayer(matchmaking=UniformPast()))
    for number in (1, 2):
        league.take_snapshot("main", parameters(number), number, SERIAL)
    league.refresh()
    whole = opponents_of(league)
    halves = [opponents_of(league, num_envs=32, first_copy=first) for first in (0, 32)]
    episodes = torch.randint(0, 500, (64,), generator=torch.Generator().manual_seed(0))
    drawn = whole.draw(torch.arange(64), episodes)
    parts = [half.draw(torch.arange(32), part) for half, part in zip(halves, episodes.split(32), strict=True)]
    assert torch.equal(drawn, torch.cat(parts))
    # And whatever was drawn before.
    some = torch.tensor([3, 40, 7])
    assert torch.equal(opponents_of(league).draw(some, episodes[some]), drawn[some])


def test_opponents_come_as_often_as_they_should():
    league = league_of("main", role=SelfPlayer(matchmaking=Window(window=2, play_against_latest_model_ratio=0.5)))
    for number in (1, 2):
        league.take_snapshot("main", parameters(number), number, SERIAL)
    league.refresh()
    opponents = opponents_of(league)
    drawn = torch.cat([opponents.draw(torch.arange(64), torch.full((64,), k)) for k in range(100)])
    both = (drawn == LEARNER).all(1)
    assert float(both.float().mean()) == pytest.approx(0.5, abs=0.03)
    others = drawn[~both].max(1).values
    assert torch.bincount(others, minlength=4)[:2].tolist() == [0, 0]
    assert float((others == 3).float().mean()) == pytest.approx(0.5, abs=0.04)
    # Each side as often.
    assert int((drawn[~both, 0] == LEARNER).sum()) == pytest.approx(int((~both).sum()) / 2, rel=0.05)


def test_with_swap_steps_a_copy_keeps_its_opponents_for_a_period():
    league = league_of("main", role=SelfPlayer(matchmaking=UniformPast()))
    for number in range(1, 6):
        league.take_snapshot("main", parameters(number), number, SERIAL)
    league.refresh()
    period = [0]
    opponents = opponents_of(league, swap_period=lambda: period[0])

    def met(episode):
        drawn = opponents.draw(torch.arange(64), torch.full((64,), episode))
        return torch.where((drawn == LEARNER).all(1), LEARNER, drawn.max(1).values)

    first = met(0)
    assert torch.equal(met(1), first)
    assert torch.equal(met(2), first)
    period[0] = 1
    assert not torch.equal(met(3), first)


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
    assert sum(row["main/games"] for row in logger.rows) == experiment.league.payoffs.games()[0].sum()
    assert result.counter.episodes >= experiment.league.payoffs.games()[0].sum() > 0
    summary = result.evaluation.summary()
    assert summary["evaluation/episodes"] == 6
    assert 0 <= summary["evaluation/score"] <= 1
    assert {"evaluation/score/p_0", "evaluation/losses/p_1"} <= summary.keys()


def test_one_evaluated_game_has_no_score_from_the_other_side():
    _, result = trained(config(evaluation_episodes=1, steps=UPDATE))
    summary = result.evaluation.summary()
    assert "evaluation/score/p_0" in summary
    assert "evaluation/score/p_1" not in summary


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


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        (nash_mixture, [0.0, 1 / 3, 1 / 3, 1 / 3]),
        (alpha_rank_mixture, [0.0, 1 / 3, 1 / 3, 1 / 3]),
        (uniform_mixture, [0.25] * 4),
    ],
)
def test_psro_meets_the_mixture_that_solves_the_game_between_snapshots(strategy, expected):
    """Rock, paper, scissors, and somebody who loses to all of them."""
    league = League({"main": Oracle(meta_strategy=strategy)}, SnapshotStore())
    for number in range(4):
        league.take_snapshot("main", parameters(number), 0, SERIAL)
    for winner, loser in ((3, 2), (4, 3), (2, 4), (2, 1), (3, 1), (4, 1)):
        for first, second, result in ((winner, loser, 1.0), (loser, winner, -1.0)):
            league.add_games(np.array([first]), np.array([second]), np.array([[result, -result]]))
    league.refresh()
    np.testing.assert_allclose(league.probabilities("main"), [0.0, *expected], atol=1e-6)


LEAGUE = {
    "main": MainPlayer(matchmaking=PFSP(), save_steps=2 * UPDATE),
    "main-exploiter-0": Exploiter(min_steps=UPDATE, max_steps=2 * UPDATE, min_games=2, win_rate=0.5),
    "league-exploiter-0": Exploiter(target=None, min_steps=UPDATE, max_steps=3 * UPDATE, min_games=2),
}


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
        logger, asked, number = Rows(), [], 1 + (stop - 1) * len(league.players)
        saved = Checkpointer(tmp_path / f"saved {stop}")
        _, stopped = trained(
            chosen(f"{stop}"),
            logger=logger,
            checkpointer=saved,
            should_stop=lambda asked=asked, number=number: asked.append(1) or len(asked) == number,
        )
        assert stopped.stopped
        again, resumed = trained(chosen(f"{stop}"), logger=logger, resume=load_checkpoint(saved.directory))
        assert equal(resumed.learner_state, undisturbed.learner_state)
        assert logger.rows == whole.rows
        assert again.league.snapshots == league.league.snapshots
        assert torch.equal(again.league.payoffs.counts, league.league.payoffs.counts)


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
        experiment._begin()
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


class AlwaysFirst:
    """The oldest candidate, always."""

    def probabilities(self, payoffs, learner, candidates):
        return np.eye(len(candidates))[0]


def test_self_play_refuses_what_it_cannot_learn_from():
    with pytest.raises(InputError, match="team reward"):
        LeagueExperiment(config(algorithm={"team_reward": True}))
    alone = anything(AgentSpec(name="a", observation=SEEN, action=THREE))
    with pytest.raises(InputError, match="nobody to play against"):
        LeagueExperiment(config(alone))
    builder = QMIX(config=QMIXConfig(mixer="none", team_reward=False))
    with pytest.raises(InputError, match="on-policy"):
        LeagueExperiment(config(anything(*PAIR), builder=builder, steps=100_000))
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
            first_copy=request.first_copy,
            seed=request.seed,
            purpose=request.purpose,
            death_rate=0.1,
        )

    _, result = trained(config(game, evaluation_episodes=4))
    assert all(bool(torch.isfinite(tensor).all()) for tensor in result.learner_state.values())
