"""``marl league``: what it leaves, that it goes on as if nothing had happened, and what it refuses."""

import itertools
import json
from contextlib import nullcontext
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from command_line import rows_of
from saved_runs import timeless
from tictactoe import lost_boards

from marl.algorithms.nfsp import NFSPConfig
from marl.checkpoints.checkpoint import load_checkpoint
from marl.errors import InputError
from marl.launchers.run.saved_league import load_league
from marl.launchers.run.trained_run import load_run
from marl.launchers.training.league import LeagueOptions, MatchmakingName, refuse_unread

TICTACTOE = "classic/tictactoe-v3"
RPS = "envs.matrix_games:rock_paper_scissors"
DILEMMA = "envs.matrix_games:prisoners_dilemma"
SMALL = ("--num-envs", "4", "--row-every", "1", "--evaluation-episodes", "4", "--algorithm.rollout-length", "10")
TINY = (*SMALL, "--algorithm.epochs", "1", "--algorithm.hidden-sizes", "16")


def test_a_league_leaves_a_run_that_other_commands_read(marl, tmp_path):
    run = tmp_path / "league"
    argv = ("--steps", 480, "--save-steps", 80, "--main-exploiters", 1, "--league-exploiters", 1, *TINY)
    done = marl("league", "ippo", TICTACTOE, *argv, "--matchmaking", "pfsp", "--out", run)
    assert (done.code, done.stderr) == (0, ""), done
    rows = rows_of(run)
    assert rows[-1]["env_steps"] == 480
    assert {"main/score", "main-exploiter-0/score", "league/players", "player/policy_loss"} <= {
        key for row in rows for key in row
    }
    summary = json.loads((run / "summary.json").read_text())
    assert {"evaluation/return_mean", "evaluation/score", "evaluation/score/player_1"} <= summary.keys()
    assert json.loads((run / "config.json").read_text())["league"]["matchmaking"] == "pfsp"
    league = load_league(run)
    assert [name for name in league.digests if name.startswith("main-0")] == ["main-0000", "main-0001", "main-0002"]
    assert sum(league.mixture.values()) == pytest.approx(1.0)
    assert {path.stem for path in (run / "snapshots").iterdir()} == set(league.digests.values())
    assert len(lost_boards(league.policies("main-0002")["player"], league.spec)) == 2
    assert load_run(run).env_steps == 480
    evaluated = marl("evaluate", run, "--episodes", 2, "--json")
    assert (evaluated.code, evaluated.stderr) == (0, "")


def test_a_league_goes_on_as_if_it_had_not_stopped(marl, tmp_path):
    argv = ("league", "mappo", TICTACTOE, "--save-steps", 80, *TINY, "--seed", 3)
    assert marl(*argv, "--steps", 400, "--out", tmp_path / "whole").code == 0
    assert marl(*argv, "--steps", 200, "--out", tmp_path / "parts").code == 0
    assert marl(*argv, "--steps", 400, "--out", tmp_path / "parts", "--resume").code == 0
    whole, parts = (load_checkpoint(tmp_path / name / "checkpoints").tensors for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    assert [name for name in whole if not torch.equal(whole[name], parts[name])] == []
    assert timeless(rows_of(tmp_path / "whole")) == timeless(rows_of(tmp_path / "parts"))


@pytest.mark.parametrize("matchmaking", ["window", "nfsp"])
@pytest.mark.parametrize("saved", [False, True])
def test_a_resumed_league_says_that_replay_starts_empty_unless_it_was_saved(marl, tmp_path, matchmaking, saved):
    argv = ["league", "iql", RPS, "--matchmaking", matchmaking, "--num-envs", 4, "--evaluation-episodes", 0]
    settings = {"replay.capacity": 400, "replay.min-size": 40, "replay.batch-size": 16, "hidden-sizes": 8}
    argv += [word for name, value in settings.items() for word in (f"--algorithm.{name}", value)]
    argv += ["--nfsp.hidden-sizes", 8, "--nfsp.reservoir", 400] * (matchmaking == "nfsp")
    argv += ["--out", tmp_path, *["--checkpoint-replay"] * saved]
    assert marl(*argv, "--steps", 200).code == 0
    done = marl(*argv, "--steps", 400, "--resume")
    assert done.code == 0, done
    assert ("replay was not saved (--checkpoint-replay) and starts empty" in done.stdout) is not saved


def test_a_league_takes_what_the_recipe_of_its_pair_says_of_matchmaking(marl, tmp_path):
    small = ("--steps", 64, "--num-envs", 4, "--evaluation-episodes", 0, "--algorithm.hidden-sizes", 8)
    assert marl("league", "ippo", "openspiel/kuhn_poker", *small, "--out", tmp_path).code == 0
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["recipe"], config["algorithm"]["magnet_updates"]) == ("kuhn", 8)
    assert (config["league"]["matchmaking"], config["league"]["save_steps"]) == ("latest", 200_000)


def test_ranks_of_a_league_need_no_more_than_the_option(marl, tmp_path):
    argv = ("league", "ippo", TICTACTOE, "--steps", 200, "--save-steps", 80, *TINY)
    assert marl(*argv, "--out", tmp_path / "one").code == 0
    assert marl(*argv, "--ranks", 2, "--out", tmp_path / "two").code == 0
    one, two = (load_league(tmp_path / name) for name in ("one", "two"))
    assert torch.equal(one.payoffs.counts, two.payoffs.counts)
    assert list(one.digests) == list(two.digests)


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (("ippo", "mpe2.simple_spread_v3", "--teams", "{}"), "--teams leaves out agent_0, agent_1, agent_2"),
        (("ippo", TICTACTOE, "--teams", "player_1"), "--teams takes pairs or a JSON object"),
        (("ippo", TICTACTOE, "--teams", '{"player_1": "a", "player_2": "a"}'), "nobody to play against"),
        (("ippo", TICTACTOE, "--save-steps", 0), "save-steps"),
        (("ippo", TICTACTOE, "--first-snapshot-fraction", 2), "first-snapshot-fraction"),
        (("ippo", TICTACTOE, "--matchmaking", "psro-nash", "--main-exploiters", 1), "psro"),
        (("ippo", TICTACTOE, "--play-against-latest-model-ratio", 1.5), "--play-against-latest-model-ratio"),
        (("ippo", TICTACTOE, "--matchmaking", "nobody"), "matchmaking"),
        (("qmix", RPS), "opponents for its own"),
        (("vdn", RPS), "team reward"),
        (("vdn", DILEMMA, "--matchmaking", "latest"), "team reward"),
        (("vdn", DILEMMA, "--matchmaking", "nfsp"), "team reward"),
        (("ippo", TICTACTOE, "--matchmaking", "nfsp"), "learns from replay"),
        (("ippo", TICTACTOE, "--matchmaking", "nfsp", "--nfsp.anticipatory", 0), "anticipatory"),
        (("ippo", TICTACTOE, "--matchmaking", "nfsp", "--main-exploiters", 1), "nfsp"),
        (("ippo", TICTACTOE, "--algorithm.team-reward"), "team reward"),
        (("ippo", TICTACTOE, "--windows", 3), "did you mean --window"),
    ],
)
def test_what_makes_no_league_is_refused_in_one_line(refused, tmp_path, argv, says):
    assert says in refused("league", *argv, *(() if argv[0] in ("qmix", "vdn") else SMALL), "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


ALL = get_args(MatchmakingName)
READ = {
    ("--window", 3): {"window"},
    ("--play-against-latest-model-ratio", 0.3): {"window", "quality"},
    ("--first-snapshot-fraction", 0.3): {name for name in ALL if not name.startswith("psro")},
    ("--swap-steps", 100): set(ALL) - {"latest", "nfsp"},
    ("--exploiter-win-rate", 0.6): set(),
    ("--exploiter-max-steps", 500): set(),
    ("--nfsp.batch-size", 8): {"nfsp"},
    ("--measure-games", 2): set(ALL),
    ("--save-steps", 50): set(ALL),
}


@pytest.mark.parametrize("matchmaking", ALL)
def test_options_that_the_chosen_matchmaking_does_not_read_are_refused(matchmaking):
    for (option, value), read in READ.items():
        name, _, part = option.removeprefix("--").replace("-", "_").partition(".")
        given = {name: replace(NFSPConfig(), **{part: value}) if part else value, "matchmaking": matchmaking}
        options = LeagueOptions(algorithm=None, **given)
        refusal = nullcontext() if matchmaking in read else pytest.raises(InputError, match="is for")
        with refusal:
            refuse_unread(options)


def test_options_of_exploiters_are_read_where_there_are_some_and_that_of_the_first_snapshot_is_not(refused, tmp_path):
    argv = ("league", "ippo", TICTACTOE, *SMALL, "--out", tmp_path / "run", "--main-exploiters", 1)
    assert "leagues without exploiters" in refused(*argv, "--first-snapshot-fraction", 0.2)
    refuse_unread(
        LeagueOptions(algorithm=None, main_exploiters=1, exploiter_win_rate=0.6, exploiter_max_steps=500, swap_steps=9)
    )


def test_a_run_of_train_is_no_league(tictactoe_run):
    with pytest.raises(InputError, match="not of marl league"):
        load_league(tictactoe_run)


@pytest.mark.parametrize(
    ("env", "arguments", "sides", "others"),
    [
        ("mpe2.simple_tag_v3", "{}", {"adversary": 3, "agent": 1}, ("random",)),
        ("openspiel/kuhn_poker", '{"players": 3}', {f"player_{seat}": 1 for seat in range(3)}, ("random", "b=random")),
    ],
    ids=["predators and prey", "three players"],
)
def test_teams_and_games_of_three_in_a_league_and_then_in_a_tournament(marl, tmp_path, env, arguments, sides, others):
    run, out = tmp_path / "league", tmp_path / "tournament"
    argv = ("--env-kwargs", arguments, "--recipe", "none", "--steps", 240, "--save-steps", 80, *TINY)
    assert marl("league", "ippo", env, *argv, "--main-exploiters", 1, "--out", run).code == 0
    league = load_league(run)
    newest = [name for name in league.digests if name.startswith("main-0")][-1]
    played = league.payoffs.games()[: len(league.payoffs.players) - len(league.digests)]
    assert int(played.sum()) > 0
    players = (f"now={run}", f"then={run}@{newest}", *others)
    assert marl("tournament", env, "--players", *players, "--games", 3, "--out", out).code == 0
    found = json.loads((out / "results.json").read_text())
    assert {name: len(agents) for name, agents in found["sides"].items()} == sides
    assert found["forfeits"] == 0
    for one in found["ratings"]:
        # Every player took every side, to within a game of each matchup.
        assert max(one["seats"].values()) - min(one["seats"].values()) <= 3


def test_psro_finds_the_equilibrium_of_rock_paper_scissors(marl, tmp_path):
    """Equilibrium (1/3, 1/3, 1/3); the mixture of best responses is held to 0.02 of it."""
    run = tmp_path / "psro"
    settings = {"rollout-length": 8, "epochs": 4, "minibatches": 1, "entropy-coef": 0.01, "learning-rate": 0.003}
    settings["hidden-sizes"] = 16
    argv = [word for name, value in settings.items() for word in (f"--algorithm.{name}", value)]
    argv += ["--matchmaking", "psro-nash", "--save-steps", 4096, "--steps", 40_960, "--num-envs", 64]
    argv += ["--env-kwargs", '{"observe": "constant"}', "--evaluation-episodes", 2]
    assert marl("league", "ippo", RPS, *argv, "--out", run).code == 0
    league = load_league(run)
    frequencies = {name: rock_paper_scissors(league.policies(name, greedy=False)) for name in league.digests}
    played = sum(share * frequencies[name] for name, share in league.mixture.items())
    np.testing.assert_allclose(played, 1 / 3, atol=0.02)


def test_nfsp_is_a_run_that_goes_on_and_whose_averages_are_measured_and_play(marl, tmp_path):
    argv = ["league", "iql", "openspiel/kuhn_poker", "--matchmaking", "nfsp", "--backend", "batched", "--num-envs", 8]
    argv += ["--save-steps", 400, "--evaluation-episodes", 4, "--row-every", 1, "--checkpoint-replay"]
    settings = {"replay.capacity": 4000, "replay.min-size": 64, "replay.batch-size": 32, "hidden-sizes": 8}
    argv += [word for name, value in settings.items() for word in (f"--algorithm.{name}", value)]
    argv += ["--nfsp.anticipatory", 0.5, "--nfsp.hidden-sizes", 16, "--nfsp.reservoir", 4000]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert marl(*argv, "--steps", 1600, "--out", whole).code == 0
    assert marl(*argv, "--steps", 800, "--out", parts).code == 0
    assert marl(*argv, "--steps", 1600, "--out", parts, "--resume").code == 0
    saved = [load_checkpoint(path / "checkpoints").tensors for path in (whole, parts)]
    assert saved[0].keys() == saved[1].keys()
    assert all(torch.equal(tensor, saved[1][name]) for name, tensor in saved[0].items())
    assert timeless(rows_of(whole)) == timeless(rows_of(parts))
    assert 0 < rows_of(whole)[-1]["player/reservoir"] < 1600
    league = load_league(whole)
    found = [
        json.loads(marl("exploitability", source, "--json").stdout)["exploitability"]
        for source in (whole, f"{whole}@{next(iter(league.digests))}")
    ]
    # The first average is all but uniform, whose NashConv is 11/12.
    assert found[1] == pytest.approx(11 / 24, abs=0.01)
    assert found[0] != found[1]
    argv = ("tournament", "openspiel/kuhn_poker", "--players", f"a={whole}", f"b={whole}@main-0001", "random")
    assert marl(*argv, "--games", 4, "--action-selection", "sampled", "--out", tmp_path / "t").code == 0


def test_psro_takes_q_learners_for_best_responses(marl, tmp_path):
    """Greedy ones answer each other in turn: rock, paper and scissors, of which the mixture plays thirds."""
    run = tmp_path / "psro"
    replay = {"capacity": 4000, "min-size": 128, "batch-size": 64}
    settings = {"hidden-sizes": 16, "epsilon-decay-steps": 400, "learning-rate": 0.01, "discount": 0}
    settings |= {f"replay.{name}": value for name, value in replay.items()}
    argv = [word for name, value in settings.items() for word in (f"--algorithm.{name}", value)]
    argv += ["--matchmaking", "psro-nash", "--save-steps", 512, "--steps", 3072, "--num-envs", 16]
    argv += ["--env-kwargs", '{"observe": "constant"}', "--evaluation-episodes", 0, "--measure-games", 2]
    assert marl("league", "iql", RPS, *argv, "--out", run).code == 0
    league = load_league(run)
    played = np.array([rock_paper_scissors(league.policies(name)) for name in league.digests])
    assert set(played.ravel().tolist()) <= {0.0, 0.5, 1.0}
    np.testing.assert_allclose(np.array(list(league.mixture.values())) @ played, 1 / 3, atol=0.02)


@pytest.mark.parametrize("magnet", [False, True])
def test_plain_self_play_cycles_through_rock_paper_scissors_and_a_magnet_leads_it_to_thirds(marl, tmp_path, magnet):
    run = tmp_path / "latest"
    settings = {"rollout-length": 8, "epochs": 4, "minibatches": 1, "entropy-coef": 0.02, "learning-rate": 0.003}
    settings["hidden-sizes"] = 16
    argv = ["--matchmaking", "latest", "--save-steps", 1024, "--steps", 60_000, "--num-envs", 64]
    argv += ["--env-kwargs", '{"observe": "constant"}', "--evaluation-episodes", 0]
    if magnet:
        settings |= {"entropy-coef": 0.5, "magnet-updates": 8}
        argv.append("--algorithm.anneal-learning-rate")
    argv += [word for name, value in settings.items() for word in (f"--algorithm.{name}", value)]
    assert marl("league", "ippo", RPS, *argv, "--out", run).code == 0
    league = load_league(run)
    played = np.array([rock_paper_scissors(league.policies(name, greedy=False)) for name in league.digests])
    if magnet:
        np.testing.assert_allclose(played[-1], 1 / 3, atol=0.02)
    else:
        # Paper beats rock, scissors beat paper, rock beats scissors: each in turn is played almost always.
        turns = played.argmax(1)[played.max(1) > 0.9].tolist()
        turns = [choice for number, choice in enumerate(turns) if number == 0 or turns[number - 1] != choice]
        assert len(turns) > 3
        assert all((after - before) % 3 == 1 for before, after in itertools.pairwise(turns))


def rock_paper_scissors(policies):
    """How often a policy chooses each, by a grid of random numbers; the mean over both seats."""
    from marl.types import GroupStep

    count = 20_000
    nothing = torch.zeros((count, 2), dtype=torch.bool)
    step = GroupStep(
        observations=torch.ones(count, 2, 1),
        action_masks=None,
        active=~nothing,
        rewards=torch.zeros(count, 2),
        terminated=nothing,
        truncated=nothing,
    )
    grid = (torch.arange(count) + 0.5) / count
    (policy,) = policies.values()
    uniforms = grid.view(-1, 1, 1).repeat(1, 2, policy.num_uniforms)
    with torch.inference_mode():
        drawn = uniforms if policy.num_uniforms else None
        actions = policy.act(step, torch.zeros(count, dtype=torch.bool), None, drawn).actions
    return torch.bincount(actions.flatten(), minlength=3).double().numpy() / (2 * count)
