"""``marl tournament`` from the command line: ranks, kills, bad players and bad input."""

import contextlib
import datetime
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
from types import SimpleNamespace

import numpy as np
import pytest

from marl.checkpoints.checkpoint import list_checkpoints
from marl.core import Communicator
from marl.distributed.communicators import SerialCommunicator
from marl.launchers.run.run_directory import RunDirectory
from marl.launchers.tournament.contestants import read_entries
from marl.launchers.tournament.games_file import GamesFile
from marl.launchers.tournament.options import TournamentOptions
from marl.launchers.tournament.picture import write_picture
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


def run_together(options, ranks, path):
    """Plays a tournament on threads and returns the games that count."""
    shared = {"barrier": threading.Barrier(ranks)}
    runners = [TournamentRunner.prepare(options, read_entries(options.players), None) for _ in range(ranks)]
    with ThreadPoolExecutor(ranks) as pool:
        waiting = [
            pool.submit(runner.run, Together(rank, ranks, shared), GamesFile(path))
            for rank, runner in enumerate(runners)
        ]
        return next(iter([future.result(60) for future in waiting]))


@pytest.fixture(autouse=True)
def _toys_are_found(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(TESTS), prepend=os.pathsep)


@pytest.fixture
def play(marl, tmp_path):
    """``play("name", ...)`` plays a tournament of the toy game and returns its folder."""

    def run(name, *argv, players=FEW, env=GAME, games=10):
        done = marl("tournament", env, "--players", *players, "--games", games, "--out", tmp_path / name, *argv)
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


def test_everybody_meets_everybody_and_the_better_bidder_leads(play):
    path = play("t")
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


def test_a_tournament_that_is_being_played_is_left_alone(play, refused, tmp_path, monkeypatch):
    monkeypatch.setattr(RunDirectory.locked, "__kwdefaults__", {"patience": 0.2}, raising=False)
    path = play("t")
    with (path / "games.jsonl").open("a") as games:
        games.write('{"a line": "that another process is just')
    before = {file: file.read_bytes() for file in path.iterdir()}
    argv = ("tournament", GAME, "--players", *FEW, "--games", 10, "--out", path)
    with RunDirectory.open(path).locked():
        for more in ((), ("--resume",)):
            assert refused(*argv, *more) == f"another process is at work on {path}; stop it first"
    assert {file: file.read_bytes() for file in path.iterdir()} == before


def test_tournaments_that_begin_in_the_same_second_have_folders_of_their_own(marl, tmp_path, monkeypatch):
    class Now(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2026, 1, 1)

    monkeypatch.setattr("marl.launchers.run.run_directory.datetime", Now)
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert marl("tournament", GAME, "--players", *FEW, "--games", 2).code == 0
    first, second = sorted((tmp_path / "runs").iterdir())
    assert second.name == f"{first.name}-2"


def test_all_points_of_the_picture_are_labelled_and_its_numbers_legible(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, *argv, **settings: drawn.append(figure))
    names = [f"player {number}" for number in range(5)]
    rates = np.linspace(0.0, 1.0, 25).reshape(5, 5)
    standings = [
        SimpleNamespace(player=name, elo=100.0 * n, interval=(90.0 * n, 110.0 * n)) for n, name in enumerate(names)
    ]
    results = SimpleNamespace(standings=standings, players=names, win_rates=rates, cooperative=False)
    steps = {name: None if number == 0 else 1000 * number for number, name in enumerate(names)}
    write_picture(tmp_path / "report.png", results, title="a game", steps=steps)
    (figure,) = drawn
    matrix, curve = figure.axes[1], figure.axes[2]
    assert [text.get_text() for text in curve.texts] == names[1:]
    colours = {(int(text.get_position()[1]), int(text.get_position()[0])): text.get_color() for text in matrix.texts}
    assert len(colours) == 20
    assert colours[0, 1] == "white"  # on the dark red of 4 %
    assert colours[4, 3] == "white"  # on the dark green of 96 %
    assert colours[2, 1] == "black"  # on the yellow of 46 %


def test_the_page_needs_nothing_else_and_says_what_matters(play):
    page = (play("t", players=(*FEW, "bad=toy_match:Cheat")) / "report.html").read_text()
    for piece in ("Leaderboard", "<svg", "hsl(", "Seats", "games as bidder_0", "illegal moves", "toy_match:Cheat"):
        assert piece in page
    assert "http" not in page
    assert "src=" not in page


def test_any_number_of_ranks_gives_the_same_files(play):
    players = (*FEW, "batched=toy_match:Batched", "counting=toy_match:Counting", "bad=toy_match:Crash")
    argv = ("--boards", 4, "--seed", 5)
    alone = play("one", *argv, players=players)
    assert same(alone, play("two", *argv, "--ranks", 2, players=players))
    assert same(alone, play("four", *argv, "--ranks", 4, players=players))


def test_trained_players_give_the_same_table_from_any_number_of_ranks(play, tictactoe_run):
    env = "toy_game:strict_tictactoe"
    players = (f"trained={tictactoe_run}", f"twin={tictactoe_run}", "random")
    alone = play("one", "--action-selection", "sampled", players=players, env=env)
    two = play("two", "--action-selection", "sampled", "--ranks", 2, players=players, env=env)
    assert same(alone, two)
    found = results(alone)
    assert found["players"]["trained"]["env_steps"] == 200
    assert found["forfeits"] == 0
    assert found["distinct_games"] > 20


def test_greedy_players_repeat_themselves_and_that_is_said(marl, tictactoe_run, tmp_path):
    argv = ("toy_game:strict_tictactoe", "--players", f"a={tictactoe_run}", f"b={tictactoe_run}", "--games", 20)
    done = marl("tournament", *argv, "--out", tmp_path / "same")
    assert "only 2 of 20 games differ" in done.stdout
    done = marl("tournament", *argv, "--random-opening-moves", 3, "--out", tmp_path / "openings")
    assert "games differ" not in done.stdout


def test_a_tournament_killed_at_random_moments_ends_with_the_same_table(tmp_path, play):
    players = ("slow=toy_match:Slow", "slower=toy_match:Slow", "random")
    undisturbed = play("undisturbed", "--boards", 4, players=players, games=24)
    options = TournamentOptions(env=GAME, players=players, games=24, boards=4, out=tmp_path / "killed")
    runner = TournamentRunner.prepare(options, read_entries(players), None)
    file = GamesFile(tmp_path / "games.jsonl")
    generator = random.Random(1)
    kills = 0
    for _ in range(20):
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                runner.run(SerialCommunicator(), file)
            os._exit(0)
        time.sleep(generator.uniform(0.0, 0.06))
        os.kill(child, signal.SIGKILL)
        kills += os.WIFSIGNALED(os.waitpid(child, 0)[1])
        if file.path.exists() and generator.random() < 0.5:
            # A power cut takes a part of the last lines as well.
            size = file.path.stat().st_size
            os.truncate(file.path, max(0, size - generator.randrange(400)))
    assert kills >= 10
    runner.run(SerialCommunicator(), file)
    runner.arena.close()
    assert file.path.read_bytes() == (undisturbed / "games.jsonl").read_bytes()


def test_ranks_that_are_killed_leave_a_tournament_that_goes_on(start, play, tmp_path):
    players = ("slow=toy_match:Slow", "slower=toy_match:Slow", "slowest=toy_match:Slow", "random")
    argv = (GAME, "--players", *players, "--games", 60, "--boards", 4)
    undisturbed = play("undisturbed", "--boards", 4, players=players, games=60)
    out = tmp_path / "killed"
    python_path = str(TESTS)
    process = start("tournament", *argv, "--out", out, "--ranks", 2, PYTHONPATH=python_path)
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
    argv = ("--boards", 4, "--resume")
    assert same(undisturbed, play("killed", *argv, players=players, games=60))


def _settled(games):
    time.sleep(1.0)
    return games.count()


def test_wandb_gets_the_tables_and_a_curve_of_ratings_for_each_run(play, tictactoe_run, tmp_path, monkeypatch):
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
    argv = ("--random-opening-moves", 2, "--wandb", "offline", "--wandb-project", "games")
    players = (f"new={tictactoe_run}", f"same={checkpoint}", "random")
    path = play("t", *argv, players=players, env="toy_game:strict_tictactoe", games=4)
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


def test_a_finished_tournament_is_only_told_again(play, marl, tmp_path):
    path = play("t")
    games = (path / "games.jsonl").stat().st_mtime_ns
    (path / "results.json").unlink()
    play("t")
    assert (path / "games.jsonl").stat().st_mtime_ns == games
    assert results(path)["games"] == 30


def test_a_request_to_stop_gives_code_75_and_the_same_command_goes_on(play, marl, tmp_path, monkeypatch):
    undisturbed = play("undisturbed", "--boards", 4)
    batches = []

    def interrupted(*arguments, **named):
        batches.append(1)
        if len(batches) == 3:
            raise KeyboardInterrupt
        return play_games(*arguments, **named)

    from marl.launchers.tournament.runner import play_games

    monkeypatch.setattr("marl.launchers.tournament.runner.play_games", interrupted)
    argv = ("tournament", GAME, "--players", *FEW, "--games", 10, "--boards", 4, "--out", tmp_path / "stopped")
    done = marl(*argv)
    assert done.code == 75
    assert "the same command goes on" in done.stderr
    assert 0 < GamesFile(tmp_path / "stopped" / "games.jsonl").count() < 10
    monkeypatch.setattr("marl.launchers.tournament.runner.play_games", play_games)
    assert same(undisturbed, play("stopped", "--boards", 4))


@pytest.mark.parametrize(
    ("player", "kind"),
    [("toy_match:Crash", "crash"), ("toy_match:Quit", "crash"), ("toy_match:Cheat", "illegal")],
)
def test_forfeits_are_losses_and_counted_by_kind(play, player, kind):
    ratings = table(play("t", players=(f"bad={player}", "low=toy_match:Low")))
    assert ratings["bad"]["forfeits"] == {"crash": 0, "timeout": 0, "illegal": 0} | {kind: 10}
    assert (ratings["bad"]["losses"], ratings["low"]["forfeits"][kind]) == (10, 0)


def test_players_that_take_too_long_forfeit(play):
    players = ("slow=toy_match:Sleeper", "low=toy_match:Low")
    ratings = table(play("t", "--move-seconds", 0.02, players=players, games=4))
    assert ratings["slow"]["forfeits"]["timeout"] == 4


def test_a_game_that_never_ends_is_a_draw_and_counted(play, marl, tmp_path):
    path = play("t", "--env-kwargs", '{"endless": true}', "--max-steps", 7, games=4)
    found = results(path)
    assert (found["step_limits"], found["games"]) == (12, 12)
    assert all((one["draws"], one["wins"], one["losses"]) == (8, 0, 0) for one in found["ratings"])


def test_three_players_at_a_table(play):
    path = play("t", "--env-kwargs", '{"bidders": 3}', players=(*FEW, "lower=toy_match:Low"), games=9)
    found = results(path)
    assert found["games"] == 4 * 9
    for one in found["ratings"]:
        assert set(one["seats"].values()) == {9}
    assert found["ratings"][0]["player"] == "high"
    assert found["seat_advantage"] is None


def test_four_sides_from_three_ranks(play, tmp_path):
    argv = ("--env-kwargs", '{"bidders": 4}', "--boards", 4)
    players = (*FEW, "lower=toy_match:Low")
    one = play("one", *argv, players=players, games=8)
    options = TournamentOptions(env=GAME, players=players, games=8, env_kwargs=argv[1], boards=4)
    assert run_together(options, 3, tmp_path / "g") == list(GamesFile(one / "games.jsonl").read().values())
    assert table(one)["high"]["seats"] == {f"bidder_{seat}": 2 for seat in range(4)}


def test_teams_that_are_unlike_are_compared_in_the_same_seat(play):
    path = play("t", "--env-kwargs", '{"teams": true}', games=8)
    found = results(path)
    assert found["scoring"] == "duplicate"
    assert found["sides"] == {"hare": ["hare_0", "hare_1"], "wolf": ["wolf_0", "wolf_1"]}
    assert {one["player"]: one["seats"] for one in found["ratings"]}["high"] == {"hare": 8, "wolf": 8}


def test_predators_and_prey_of_simple_tag(play):
    path = play("t", env="mpe2.simple_tag_v3", players=("a=random", "b=random"), games=6)
    found = results(path)
    assert found["scoring"] == "duplicate"
    assert found["sides"] == {
        "adversary": ["adversary_0", "adversary_1", "adversary_2"],
        "agent": ["agent_0"],
    }
    assert found["distinct_games"] == 6


def test_teams_can_be_named(play, refused, tmp_path):
    teams = {"bidder_0": "red", "bidder_1": "blue", "bidder_2": "blue", "bidder_3": "red"}
    argv = ("--env-kwargs", '{"bidders": 4}', "--teams")
    found = results(play("t", *argv, json.dumps(teams), games=4))
    assert found["sides"] == {"red": ["bidder_0", "bidder_3"], "blue": ["bidder_1", "bidder_2"]}
    assert found["scoring"] == "game"
    wrong = ("tournament", GAME, "--players", *FEW, "--out", tmp_path / "x", *argv)
    assert "'bidder_9', which is no agent; did you mean" in refused(*wrong, json.dumps({**teams, "bidder_9": "red"}))
    assert "--teams leaves out bidder_3" in refused(*wrong, json.dumps(dict(list(teams.items())[:3])))
    assert "nobody to play against" in refused(*wrong, json.dumps(dict.fromkeys(teams, "red")))
    assert not (tmp_path / "x").exists()


def test_the_first_runs_the_gauntlet(play):
    found = results(play("t", "--format", "gauntlet", players=(*FEW, "lower=toy_match:Low"), games=4))
    assert found["games"] == 12
    met = found["payoff"]["comparisons"]
    assert met[0] == [0, 4, 4, 4]
    assert met[1] == [4, 0, 0, 0]


def test_swiss_rounds_are_the_same_from_any_number_of_ranks_and_after_a_break(play, tmp_path):
    players = tuple(
        f"p{index}=toy_match:{kind}" for index, kind in enumerate(("High", "Low", "Slow", "Batched", "Low"))
    )
    argv = ("--format", "swiss", "--boards", 4)
    one = play("one", *argv, players=players, games=6)
    assert results(one)["games"] == 3 * 2 * 6
    options = TournamentOptions(env=GAME, players=players, games=6, format="swiss", boards=4)
    assert run_together(options, 2, tmp_path / "g") == list(GamesFile(one / "games.jsonl").read().values())
    broken = Path(shutil.copytree(one, one.with_name("broken")))
    lines = (one / "games.jsonl").read_bytes().splitlines(keepends=True)
    (broken / "games.jsonl").write_bytes(b"".join(lines[:17]) + lines[17][:40])
    assert same(one, play("broken", *argv, players=players, games=6))


def test_a_decided_match_stops_early_and_counts_the_same_games_from_any_number_of_ranks(play, tmp_path):
    players = ("high=toy_match:High", "low=toy_match:Low")
    argv = ("--sprt", 0, 50, "--boards", 8)
    one = play("one", *argv, players=players, games=1000)
    (test,) = results(one)["sprt"]
    assert test["decision"] == "elo1"
    assert results(one)["games"] == 2 * test["used"] < 200
    assert GamesFile(one / "games.jsonl").count() < 300
    counted = run_together(
        TournamentOptions(env=GAME, players=players, games=1000, sprt=(0, 50), boards=8), 3, tmp_path / "g"
    )
    assert counted == list(GamesFile(one / "games.jsonl").read().values())[: 2 * test["used"]]


@pytest.mark.parametrize(
    ("argv", "message"),
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
        (("--players", *FEW, "--teams", "red=a,b"), "--teams names 'red', which is no agent"),
        (("--players", *FEW, "--format", "knockout"), "format"),
        (("--players", *FEW, "--gmaes", "5"), "did you mean --games"),
        (("--players", *FEW, "--max-steps", "0"), "--max-steps must be at least 1"),
        (("--players", *FEW, "--resume"), "no tournament in"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(refused, tmp_path, argv, message):
    out = tmp_path / "x"
    line = refused("tournament", GAME, *argv, "--out", out)
    assert re.search(message, line), line
    assert not out.exists()


def test_a_tournament_without_anything_is_explained(refused, marl):
    assert "which game?" in refused("tournament")
    assert "which game?" in refused("tournament", "--players", "random")
    assert "there is no environment" in refused("tournament", "mpe2.simple_tga_v3", "--players", *FEW)
    assert marl("tournament", "--help").code == 0


def test_players_of_another_environment_or_other_spaces_are_refused(refused, spread_run, tictactoe_run, tmp_path):
    argv = ("--out", tmp_path / "x", "--players", f"a={tictactoe_run}", f"b={spread_run}")
    line = refused("tournament", "toy_game:strict_tictactoe", *argv)
    assert line == "player b was trained on mpe2.simple_spread_v3, not on toy_game:strict_tictactoe"
    argv = ("--out", tmp_path / "x", "--players", f"a={spread_run}", "random", "--env-kwargs", '{"N": 4}')
    assert "does not fit" in refused("tournament", "mpe2.simple_spread_v3", *argv)
    assert not (tmp_path / "x").exists()


def test_folders_of_something_else_and_other_settings_are_refused_and_nothing_is_lost(
    play, refused, spread_run, tmp_path
):
    line = refused("tournament", GAME, "--players", *FEW, "--out", spread_run)
    assert "holds a run, not a tournament" in line
    path = play("t")
    before = {name: (path / name).read_bytes() for name in os.listdir(path)}
    argv = ("tournament", GAME, "--players", *FEW, "--games", 10, "--out", path)
    assert "seed was 0, now 4" in refused(*argv, "--seed", 4)
    assert "players.low" in refused("tournament", GAME, "--players", "high=toy_match:High", "random", "--out", path)
    assert {name: (path / name).read_bytes() for name in os.listdir(path)} == before
    full = tmp_path / "full"
    full.mkdir()
    (full / "notes.txt").write_text("mine")
    assert "is not empty" in refused("tournament", GAME, "--players", *FEW, "--out", full)


def test_a_player_stays_the_checkpoint_that_it_was(play, refused, tictactoe_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(tictactoe_run, run)
    env = "toy_game:strict_tictactoe"
    path = play("t", players=(f"a={run}", "random"), env=env)
    checkpoint = list_checkpoints(run / "checkpoints")[-1]
    assert results(path)["players"]["a"]["checkpoint"] == str(checkpoint)
    (path / "games.jsonl").unlink()
    shutil.copytree(checkpoint, checkpoint.with_name("000000000999"))
    # The run has been trained further; the tournament's player is the one that it began with.
    again = play("t", players=(f"a={run}", "random"), env=env)
    assert results(again)["players"]["a"]["checkpoint"] == str(checkpoint)
    shutil.rmtree(checkpoint)
    argv = ("tournament", env, "--players", f"a={run}", "random", "--games", 10, "--out", path)
    assert "is gone" in refused(*argv)


def test_games_of_another_tournament_are_refused(play, refused, tmp_path):
    path, other = play("t"), play("other", players=("x=random", "y=random", "z=random"))
    shutil.copy(other / "games.jsonl", path / "games.jsonl")
    line = refused("tournament", GAME, "--players", *FEW, "--games", 10, "--out", path)
    assert "holds game 0 of another tournament" in line


def test_snapshots_of_a_league_play_by_name_and_by_file(play, marl, refused, tmp_path):
    league = tmp_path / "league"
    argv = ("--steps", 600, "--num-envs", 4, "--save-steps", 200, "--evaluation-episodes", 0)
    assert marl("league", "ippo", "toy_game:strict_tictactoe", *argv, "--out", league).code == 0
    file = sorted((league / "snapshots").iterdir())[0]
    players = (f"now={league}", f"{league}@main-0000", f"file={file}")
    path = play("t", "--action-selection", "sampled", players=players, env="toy_game:strict_tictactoe")
    about = results(path)["players"]
    assert about["league-main-0000"]["checkpoint"].endswith(".safetensors")
    assert about["file"]["checkpoint"] == str(file)
    assert about["league-main-0000"]["env_steps"] < about["now"]["env_steps"]
    assert results(path)["forfeits"] == 0
    argv = ("toy_game:strict_tictactoe", "--players", f"a={league}@main-0099", "random", "--out", tmp_path / "x")
    assert "has no snapshot 'main-0099'" in refused("tournament", *argv)
