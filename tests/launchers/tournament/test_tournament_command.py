"""``marl tournament`` from the command line: ranks, kills, bad players and bad input."""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from marl.checkpoints.checkpoint import list_checkpoints
from marl.core import Communicator
from marl.distributed.communicators import SerialCommunicator
from marl.launchers.tournament.contestants import read_entries
from marl.launchers.tournament.games_file import GamesFile
from marl.launchers.tournament.options import Options
from marl.launchers.tournament.runner import TournamentRunner

TESTS = Path(__file__).parents[2] / "helpers"
GAME = "toy_match:make"
FEW = ("high=toy_match:High", "low=toy_match:Low", "random")


class Together(Communicator):
    """Ranks that are threads of one process."""

    def __init__(self, rank, size, shared):
        self.rank, self.size, self._shared = rank, size, shared

    def all_reduce(self, tensor, operation="sum"):
        self._shared["barrier"].wait(60)

    def broadcast(self, tensor, root=0):
        if self.rank == root:
            self._shared["tensor"] = tensor
        self._shared["barrier"].wait(60)
        if self.rank != root:
            tensor.copy_(self._shared["tensor"])
        self._shared["barrier"].wait(60)

    def gather_rows(self, tensor):
        raise NotImplementedError

    def abort(self, code):
        raise NotImplementedError


def hold_together(options, ranks, path):
    """Holds a tournament on threads and returns the games that count."""
    shared = {"barrier": threading.Barrier(ranks)}
    halls = [TournamentRunner.prepare(options, read_entries(options.players), None) for _ in range(ranks)]
    with ThreadPoolExecutor(ranks) as pool:
        waiting = [
            pool.submit(hall.hold, Together(rank, ranks, shared), GamesFile(path)) for rank, hall in enumerate(halls)
        ]
        return next(iter([held.result(60) for held in waiting]))


@pytest.fixture(autouse=True)
def _toys_are_found(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(TESTS), prepend=os.pathsep)


@pytest.fixture
def hold(marl, tmp_path):
    """``hold("name", ...)`` holds a tournament of the toy game and returns its folder."""

    def run(name, *words, players=FEW, env=GAME, games=10):
        done = marl("tournament", env, "--players", *players, "--games", games, "--out", tmp_path / name, *words)
        assert done.code == 0, done
        return tmp_path / name

    return run


def results(path):
    return json.loads((path / "results.json").read_text())


def table(path):
    return {one["player"]: one for one in results(path)["ratings"]}


def same(one, other, *names):
    names = names or ("results.json", "results.csv", "report.html", "games.jsonl", "report.png")
    return [name for name in names if (one / name).read_bytes() != (other / name).read_bytes()] == []


def test_everybody_meets_everybody_and_the_better_bidder_leads(hold):
    path = hold("t")
    found = results(path)
    assert found["ratings"][0]["player"] == "high"
    assert found["games"] == 30
    ratings = table(path)
    assert {name: one["seats"] for name, one in ratings.items()} == {
        name: {"bidder_0": 10, "bidder_1": 10} for name in ("high", "low", "random")
    }
    assert found["payoff"]["players"] == ["high", "low", "random"]
    assert found["payoff"]["win_rates"][0][1] == 1.0
    low, high = ratings["high"]["interval"]
    assert low < ratings["high"]["elo"] < high
    assert (path / "report.png").stat().st_size > 10_000


def test_the_page_needs_nothing_else_and_says_what_matters(hold):
    page = (hold("t", players=(*FEW, "bad=toy_match:Cheat")) / "report.html").read_text()
    for piece in ("Leaderboard", "<svg", "hsl(", "Seats", "games as bidder_0", "illegal moves", "toy_match:Cheat"):
        assert piece in page
    assert "http" not in page
    assert "src=" not in page


def test_any_number_of_ranks_gives_the_same_files(hold):
    players = (*FEW, "batched=toy_match:Batched", "counting=toy_match:Counting", "bad=toy_match:Crash")
    words = ("--boards", 4, "--seed", 5)
    alone = hold("one", *words, players=players)
    assert same(alone, hold("two", *words, "--ranks", 2, players=players))
    assert same(alone, hold("four", *words, "--ranks", 4, players=players))


def test_trained_players_give_the_same_table_from_any_number_of_ranks(hold, tictactoe_run):
    env = "toy_game:strict_tictactoe"
    players = (f"trained={tictactoe_run}", f"twin={tictactoe_run}", "random")
    alone = hold("one", "--choosing", "sampled", players=players, env=env)
    two = hold("two", "--choosing", "sampled", "--ranks", 2, players=players, env=env)
    assert same(alone, two)
    found = results(alone)
    assert found["players"]["trained"]["env_steps"] == 200
    assert found["forfeits"] == 0
    assert found["distinct_games"] > 20


def test_greedy_players_repeat_themselves_and_that_is_said(marl, tictactoe_run, tmp_path):
    words = ("toy_game:strict_tictactoe", "--players", f"a={tictactoe_run}", f"b={tictactoe_run}", "--games", 20)
    done = marl("tournament", *words, "--out", tmp_path / "same")
    assert "only 2 of 20 games differ" in done.stdout
    done = marl("tournament", *words, "--opening", 3, "--out", tmp_path / "openings")
    assert "games differ" not in done.stdout


def test_a_tournament_killed_at_random_moments_ends_with_the_same_table(tmp_path, hold):
    players = ("slow=toy_match:Slow", "slower=toy_match:Slow", "random")
    undisturbed = hold("undisturbed", "--boards", 4, players=players, games=24)
    options = Options(env=GAME, players=players, games=24, boards=4, out=tmp_path / "killed")
    hall = TournamentRunner.prepare(options, read_entries(players), None)
    file = GamesFile(tmp_path / "games.jsonl")
    generator = random.Random(1)
    kills = 0
    for _ in range(20):
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                hall.hold(SerialCommunicator(), file)
            os._exit(0)
        time.sleep(generator.uniform(0.0, 0.06))
        os.kill(child, signal.SIGKILL)
        kills += os.WIFSIGNALED(os.waitpid(child, 0)[1])
        if file.path.exists() and generator.random() < 0.5:
            # A power cut takes a part of the last lines as well.
            size = file.path.stat().st_size
            os.truncate(file.path, max(0, size - generator.randrange(400)))
    assert kills >= 10
    hall.hold(SerialCommunicator(), file)
    hall.arena.close()
    assert file.path.read_bytes() == (undisturbed / "games.jsonl").read_bytes()


def test_ranks_that_are_killed_leave_a_tournament_that_goes_on(start, hold, tmp_path):
    players = ("slow=toy_match:Slow", "slower=toy_match:Slow", "slowest=toy_match:Slow", "random")
    words = (GAME, "--players", *players, "--games", 60, "--boards", 4)
    undisturbed = hold("undisturbed", "--boards", 4, players=players, games=60)
    out = tmp_path / "killed"
    python_path = str(TESTS)
    process = start("tournament", *words, "--out", out, "--ranks", 2, PYTHONPATH=python_path)
    games = GamesFile(out / "games.jsonl")
    deadline = time.monotonic() + 90
    while games.count() < 40 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = games.count()
    assert 40 <= before < 360
    # The ranks are in a group of their own; they end when their mpirun is gone.
    while (later := _settled(games)) != before and time.monotonic() < deadline:
        before = later
    words = ("--boards", 4, "--resume")
    assert same(undisturbed, hold("killed", *words, players=players, games=60))


def _settled(games):
    time.sleep(1.0)
    return games.count()


def test_wandb_gets_the_tables_and_a_curve_of_ratings_for_each_run(hold, tictactoe_run, tmp_path, monkeypatch):
    sent = []

    class Logger:
        failure = url = None

        def __init__(self, project, name, **options):
            sent.append(("begun", project, name, options["mode"]))

        def write(self, row):
            sent.append(("row", row))

        def log_table(self, name, columns, rows):
            sent.append(("table", name, columns, rows))

        def close(self, code):
            sent.append(("closed",))

    monkeypatch.setattr("marl.launchers.reports.trackers.WandbLogger", Logger)
    checkpoint = sorted((tictactoe_run / "checkpoints").iterdir())[-1]
    words = ("--opening", 2, "--wandb", "offline", "--wandb-project", "games")
    players = (f"new={tictactoe_run}", f"same={checkpoint}", "random")
    path = hold("t", *words, players=players, env="toy_game:strict_tictactoe", games=4)
    begun, *rows, board, payoff, closed = sent
    assert begun == ("begun", "games", "t", "offline")
    # One checkpoint under two names: one point of one curve.
    steps = results(path)["players"]["new"]["env_steps"]
    ((_, row),) = rows
    assert row.keys() == {"env_steps", *(f"{part}/{tictactoe_run.name}" for part in ("elo", "elo_low", "elo_high"))}
    assert row["env_steps"] == steps
    assert board[:2] == ("table", "leaderboard")
    assert [cells[1] for cells in board[3]] == [one["player"] for one in results(path)["ratings"]]
    assert payoff[1] == "payoff"
    assert [len(cells) for cells in payoff[3]] == [4, 4, 4]
    assert closed == ("closed",)


def test_a_finished_tournament_is_only_told_again(hold, marl, tmp_path):
    path = hold("t")
    games = (path / "games.jsonl").stat().st_mtime_ns
    (path / "results.json").unlink()
    hold("t")
    assert (path / "games.jsonl").stat().st_mtime_ns == games
    assert results(path)["games"] == 30


def test_a_request_to_stop_gives_code_75_and_the_same_command_goes_on(hold, marl, tmp_path, monkeypatch):
    undisturbed = hold("undisturbed", "--boards", 4)
    blocks = []

    def interrupted(*arguments, **named):
        blocks.append(1)
        if len(blocks) == 3:
            raise KeyboardInterrupt
        return play(*arguments, **named)

    from marl.launchers.tournament.runner import play_games as play

    monkeypatch.setattr("marl.launchers.tournament.runner.play_games", interrupted)
    words = ("tournament", GAME, "--players", *FEW, "--games", 10, "--boards", 4, "--out", tmp_path / "stopped")
    done = marl(*words)
    assert done.code == 75
    assert "the same command goes on" in done.stderr
    assert 0 < GamesFile(tmp_path / "stopped" / "games.jsonl").count() < 10
    monkeypatch.setattr("marl.launchers.tournament.runner.play_games", play)
    assert same(undisturbed, hold("stopped", "--boards", 4))


@pytest.mark.parametrize(
    ("player", "kind"),
    [("toy_match:Crash", "crash"), ("toy_match:Quit", "crash"), ("toy_match:Cheat", "illegal")],
)
def test_forfeits_are_losses_and_counted_by_kind(hold, player, kind):
    ratings = table(hold("t", players=(f"bad={player}", "low=toy_match:Low")))
    assert ratings["bad"]["forfeits"] == {"crash": 0, "timeout": 0, "illegal": 0} | {kind: 10}
    assert (ratings["bad"]["losses"], ratings["low"]["forfeits"][kind]) == (10, 0)


def test_players_that_take_too_long_forfeit(hold):
    players = ("slow=toy_match:Sleeper", "low=toy_match:Low")
    ratings = table(hold("t", "--move-seconds", 0.02, players=players, games=4))
    assert ratings["slow"]["forfeits"]["timeout"] == 4


def test_a_game_that_never_ends_is_a_draw_and_counted(hold, marl, tmp_path):
    path = hold("t", "--env-kwargs", '{"endless": true}', "--max-steps", 7, games=4)
    found = results(path)
    assert (found["step_limits"], found["games"]) == (12, 12)
    assert all((one["draws"], one["wins"], one["losses"]) == (8, 0, 0) for one in found["ratings"])


def test_three_players_at_a_table(hold):
    path = hold("t", "--env-kwargs", '{"bidders": 3}', players=(*FEW, "lower=toy_match:Low"), games=9)
    found = results(path)
    assert found["games"] == 4 * 9
    for one in found["ratings"]:
        assert set(one["seats"].values()) == {9}
    assert found["ratings"][0]["player"] == "high"
    assert found["seat_advantage"] is None


def test_four_sides_from_three_ranks(hold, tmp_path):
    words = ("--env-kwargs", '{"bidders": 4}', "--boards", 4)
    players = (*FEW, "lower=toy_match:Low")
    one = hold("one", *words, players=players, games=8)
    options = Options(env=GAME, players=players, games=8, env_kwargs=words[1], boards=4)
    assert hold_together(options, 3, tmp_path / "g") == list(GamesFile(one / "games.jsonl").read().values())
    assert table(one)["high"]["seats"] == {f"bidder_{seat}": 2 for seat in range(4)}


def test_teams_that_are_unlike_are_compared_in_the_same_seat(hold):
    path = hold("t", "--env-kwargs", '{"teams": true}', games=8)
    found = results(path)
    assert found["scoring"] == "duplicate"
    assert found["sides"] == {"hare": ["hare_0", "hare_1"], "wolf": ["wolf_0", "wolf_1"]}
    assert {one["player"]: one["seats"] for one in found["ratings"]}["high"] == {"hare": 8, "wolf": 8}


def test_predators_and_prey_of_simple_tag(hold):
    path = hold("t", env="mpe2.simple_tag_v3", players=("a=random", "b=random"), games=6)
    found = results(path)
    assert found["scoring"] == "duplicate"
    assert found["sides"] == {
        "adversary": ["adversary_0", "adversary_1", "adversary_2"],
        "agent": ["agent_0"],
    }
    assert found["distinct_games"] == 6


def test_teams_can_be_told(hold, refused, tmp_path):
    words = ("--env-kwargs", '{"bidders": 4}', "--teams", "red=bidder_0,bidder_3", "blue=bidder_1,bidder_2")
    found = results(hold("t", *words, games=4))
    assert found["sides"] == {"red": ["bidder_0", "bidder_3"], "blue": ["bidder_1", "bidder_2"]}
    assert found["scoring"] == "game"
    told = ("tournament", GAME, "--players", *FEW, "--out", tmp_path / "x", "--teams", "red=bidder_0,bidder_9")
    assert "a team names bidder_9" in refused(*told)


def test_the_first_runs_the_gauntlet(hold):
    found = results(hold("t", "--format", "gauntlet", players=(*FEW, "lower=toy_match:Low"), games=4))
    assert found["games"] == 12
    met = found["payoff"]["comparisons"]
    assert met[0] == [0, 4, 4, 4]
    assert met[1] == [4, 0, 0, 0]


def test_swiss_rounds_are_the_same_from_any_number_of_ranks_and_after_a_break(hold, tmp_path):
    players = tuple(
        f"p{index}=toy_match:{kind}" for index, kind in enumerate(("High", "Low", "Slow", "Batched", "Low"))
    )
    words = ("--format", "swiss", "--boards", 4)
    one = hold("one", *words, players=players, games=6)
    assert results(one)["games"] == 3 * 2 * 6
    options = Options(env=GAME, players=players, games=6, format="swiss", boards=4)
    assert hold_together(options, 2, tmp_path / "g") == list(GamesFile(one / "games.jsonl").read().values())
    broken = Path(shutil.copytree(one, one.with_name("broken")))
    lines = (one / "games.jsonl").read_bytes().splitlines(keepends=True)
    (broken / "games.jsonl").write_bytes(b"".join(lines[:17]) + lines[17][:40])
    assert same(one, hold("broken", *words, players=players, games=6))


def test_a_decided_match_stops_early_and_counts_the_same_games_from_any_number_of_ranks(hold, tmp_path):
    players = ("high=toy_match:High", "low=toy_match:Low")
    words = ("--sprt", 0, 50, "--boards", 8)
    one = hold("one", *words, players=players, games=1000)
    (test,) = results(one)["sprt"]
    assert test["decision"] == "elo1"
    assert results(one)["games"] == 2 * test["used"] < 200
    assert GamesFile(one / "games.jsonl").count() < 300
    counted = hold_together(Options(env=GAME, players=players, games=1000, sprt=(0, 50), boards=8), 3, tmp_path / "g")
    assert counted == list(GamesFile(one / "games.jsonl").read().values())[: 2 * test["used"]]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--players", "random"), "needs two players or more"),
        ((), "needs two players or more"),
        (("--players", "a=random", "a=toy_match:Low"), "two players are called a .random and toy_match:Low."),
        (("--players", "random", "random"), "two players are called random"),
        (("--players", "a=runs/nowhere", "random"), "there is no run or snapshot runs/nowhere .player a."),
        (("--players", "a=", "random"), "player a has no source"),
        (("--players", "a=toy_match:Hihg", "random"), "toy_match has no class 'Hihg'; did you mean 'High'"),
        (("--players", "a=no_such_module:X", "random"), "no_such_module cannot be imported"),
        (("--players", "a=toy_match:NoPlayer", "random"), "cannot play: it has no act"),
        (("--players", *FEW, "--games", "0"), "--games must be at least 1"),
        (("--players", *FEW, "--sprt", "5", "5"), "--sprt takes ELO0 < ELO1"),
        (("--players", *FEW, "--rounds", "2"), "--rounds is for --format swiss"),
        (("--players", *FEW, "--format", "swiss", "--sprt", "0", "5"), "leave out one of them"),
        (("--players", *FEW, "--anchor", "nobody"), "--anchor nobody is no player"),
        (("--players", *FEW, "--env-kwargs", '{"bidders": 5}'), "5 sides, but there are 3 players"),
        (("--players", *FEW, "--env-kwargs", '{"bids": 5}'), "toy_match:make"),
        (("--players", *FEW, "--format", "knockout"), "format"),
        (("--players", *FEW, "--gmaes", "5"), "did you mean --games"),
        (("--players", *FEW, "--max-steps", "0"), "max_steps is at least 1"),
        (("--players", *FEW, "--resume"), "no tournament in"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(refused, tmp_path, words, message):
    out = tmp_path / "x"
    line = refused("tournament", GAME, *words, "--out", out)
    assert re.search(message, line), line
    assert not out.exists()


def test_a_tournament_without_anything_is_explained(refused, marl):
    assert "which game?" in refused("tournament")
    assert "which game?" in refused("tournament", "--players", "random")
    assert "there is no environment" in refused("tournament", "mpe2.simple_tga_v3", "--players", *FEW)
    assert marl("tournament", "--help").code == 0


def test_players_of_another_environment_or_other_spaces_are_refused(refused, spread_run, tictactoe_run, tmp_path):
    words = ("--out", tmp_path / "x", "--players", f"a={tictactoe_run}", f"b={spread_run}")
    line = refused("tournament", "toy_game:strict_tictactoe", *words)
    assert line == "player b was trained on mpe2.simple_spread_v3, not on toy_game:strict_tictactoe"
    words = ("--out", tmp_path / "x", "--players", f"a={spread_run}", "random", "--env-kwargs", '{"N": 4}')
    assert "does not fit" in refused("tournament", "mpe2.simple_spread_v3", *words)
    assert not (tmp_path / "x").exists()


def test_folders_of_something_else_and_other_settings_are_refused_and_nothing_is_lost(
    hold, refused, spread_run, tmp_path
):
    line = refused("tournament", GAME, "--players", *FEW, "--out", spread_run)
    assert "holds a run, not a tournament" in line
    path = hold("t")
    before = {name: (path / name).read_bytes() for name in os.listdir(path)}
    words = ("tournament", GAME, "--players", *FEW, "--games", 10, "--out", path)
    assert "seed was 0, now 4" in refused(*words, "--seed", 4)
    assert "players.low" in refused("tournament", GAME, "--players", "high=toy_match:High", "random", "--out", path)
    assert {name: (path / name).read_bytes() for name in os.listdir(path)} == before
    full = tmp_path / "full"
    full.mkdir()
    (full / "notes.txt").write_text("mine")
    assert "is not empty" in refused("tournament", GAME, "--players", *FEW, "--out", full)


def test_a_player_stays_the_checkpoint_that_it_was(hold, refused, tictactoe_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(tictactoe_run, run)
    env = "toy_game:strict_tictactoe"
    path = hold("t", players=(f"a={run}", "random"), env=env)
    checkpoint = list_checkpoints(run / "checkpoints")[-1]
    assert results(path)["players"]["a"]["checkpoint"] == str(checkpoint)
    (path / "games.jsonl").unlink()
    shutil.copytree(checkpoint, checkpoint.with_name("000000000999"))
    # The run has been trained further; the tournament's player is the one that it began with.
    again = hold("t", players=(f"a={run}", "random"), env=env)
    assert results(again)["players"]["a"]["checkpoint"] == str(checkpoint)
    shutil.rmtree(checkpoint)
    words = ("tournament", env, "--players", f"a={run}", "random", "--games", 10, "--out", path)
    assert "is gone" in refused(*words)


def test_games_of_another_tournament_are_refused(hold, refused, tmp_path):
    path, other = hold("t"), hold("other", players=("x=random", "y=random", "z=random"))
    shutil.copy(other / "games.jsonl", path / "games.jsonl")
    line = refused("tournament", GAME, "--players", *FEW, "--games", 10, "--out", path)
    assert "holds game 0 of another tournament" in line


def test_snapshots_of_a_league_play_by_name_and_by_file(hold, marl, refused, tmp_path):
    league = tmp_path / "league"
    words = ("--steps", 600, "--num-envs", 4, "--save-steps", 200, "--evaluation-episodes", 0)
    assert marl("league", "ippo", "toy_game:strict_tictactoe", *words, "--out", league).code == 0
    file = sorted((league / "snapshots").iterdir())[0]
    players = (f"now={league}", f"{league}@main-0000", f"file={file}")
    path = hold("t", "--choosing", "sampled", players=players, env="toy_game:strict_tictactoe")
    about = results(path)["players"]
    assert about["league-main-0000"]["checkpoint"].endswith(".safetensors")
    assert about["file"]["checkpoint"] == str(file)
    assert about["league-main-0000"]["env_steps"] < about["now"]["env_steps"]
    assert results(path)["forfeits"] == 0
    words = ("toy_game:strict_tictactoe", "--players", f"a={league}@main-0099", "random", "--out", tmp_path / "x")
    assert "has no snapshot 'main-0099'" in refused("tournament", *words)
