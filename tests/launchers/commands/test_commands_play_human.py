"""A person who is a script plays board games against runs."""

import io

import numpy as np
import pytest
from command_line import quietly

from marl.errors import InputError
from marl.launchers.commands.play_human import draw_board, play_in_terminal

SHORT = ("--num-envs", "4", "--evaluation-episodes", "0", "--steps", "200")


@pytest.fixture(scope="module")
def connect_four_run(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "four"
    quietly("train", "mappo", "classic/connect_four-v3", *SHORT, "--out", path)
    return path


def talk(run, *lines, **options):
    said = io.StringIO()
    played = play_in_terminal(run, reads=io.StringIO("".join(f"{line}\n" for line in lines)), writes=said, **options)
    return played, said.getvalue()


def test_every_legal_move_is_offered_until_the_game_ends(tictactoe_run):
    # Nine squares, tried in order over and over: the taken ones are refused, and the game goes on.
    played, said = talk(tictactoe_run, *list(range(9)) * 9)
    assert len(played) == 1
    assert played[0].ending == "finished"
    assert "You are player_1." in said
    assert "Your move (0 to 8): " in said
    assert "is not legal now." in said or played[0].length <= 6
    assert any(verdict in said for verdict in ("You win.", "You lose.", "A draw."))
    # Both players' pieces of the whole game are on the last board.
    board = said[: said.index("Another game")].splitlines()[-4:-1]
    assert sum(line.count("X") + line.count("O") for line in board) == played[0].length


def test_words_and_illegal_numbers_are_asked_again(tictactoe_run):
    _, said = talk(tictactoe_run, "hello", "", "99", "-1", "4", "4")
    assert "'hello' is no number." in said
    assert "'' is no number." in said
    assert "99 is not legal now." in said
    assert "-1 is not legal now." in said
    assert "4 is not legal now." in said
    assert said.rstrip().endswith("Good bye.")


@pytest.mark.parametrize("lines", [(), ("q",), ("4", "QUIT")])
def test_leaving_is_always_possible(tictactoe_run, lines):
    played, said = talk(tictactoe_run, *lines)
    assert played == []
    assert said.endswith("Good bye.\n")


def test_the_other_seat_lets_the_run_begin(tictactoe_run):
    _, said = talk(tictactoe_run, seat="player_2")
    assert "You are player_2." in said
    board = said.split("Your move")[0]
    assert board.count("O") == 1


def test_seats_are_exchanged_for_another_game(tictactoe_run):
    _, said = talk(tictactoe_run, *list(range(9)) * 9, seat="player_1")
    once = len(said[: said.index("Another game")].split("Your move")) - 1
    # The answer to "another game?" is a line of its own, so find how many lines the first game took.
    lines = (list(range(9)) * 9)[:once]
    played, said = talk(tictactoe_run, *lines, "y", *list(range(9)) * 9)
    assert [game.players for game in played] == [("you", "run"), ("run", "you")]
    assert "You are player_2." in said


def test_connect_four_is_played_by_columns(connect_four_run):
    played, said = talk(connect_four_run, 3, *[column for _ in range(30) for column in range(7)])
    assert len(played) == 1
    assert "0 1 2 3 4 5 6" in said
    assert "Your move (0 to 6): " in said
    board = said[: said.index("Another game")].splitlines()[-8:-2]
    assert sum(line.count("X") + line.count("O") for line in board) == played[0].length


def test_boards_are_drawn_with_moves_where_they_are():
    squares = np.zeros((3, 3, 2))
    squares[1, 1, 0] = squares[0, 2, 1] = 1
    assert draw_board(squares, 9, [0, 1, 3, 5, 6, 7, 8]) == "0 1 O\n3 X 5\n6 7 8"
    columns = np.zeros((2, 4, 2))
    columns[1, 0, 0] = columns[0, 0, 1] = 1
    assert draw_board(columns, 4, [1, 2, 3]) == "O . . .\nX . . .\n  1 2 3"
    assert draw_board(np.zeros(7), 4, [0]) == ""


def test_other_games_and_seats_are_refused(spread_run, tictactoe_run, refused):
    with pytest.raises(InputError, match="no board game for two"):
        talk(spread_run)
    with pytest.raises(InputError, match="there is no seat 'player_3'; did you mean 'player_"):
        talk(tictactoe_run, seat="player_3")
    assert "--seat is for --human" in refused("play", tictactoe_run, "--seat", "player_1")


def test_the_command_reads_standard_input(marl, monkeypatch, tictactoe_run):
    monkeypatch.setattr("sys.stdin", io.StringIO("0\nq\n"))
    done = marl("play", tictactoe_run, "--human", "--seat", "player_1")
    assert (done.code, done.stdout.count("Your move")) == (0, 2)
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert marl("play", tictactoe_run, "--human").code == 0


@pytest.mark.parametrize(
    ("game", "lines", "shows"),
    [
        ("kuhn_poker", ["x", "5", "0", "0"], "Your move (0, 1): "),
        ("tic_tac_toe", list(range(9)) * 5, "...\n...\n..."),
        ("goofspiel(num_cards=3)", [0, 1, 2] * 3, "Point card sequence: "),
        ("matrix_rps", [2], "Your move (0 to 2): "),
    ],
)
def test_games_of_openspiel_are_shown_as_openspiel_writes_them(tmp_path, game, lines, shows):
    pytest.importorskip("pyspiel", reason="OpenSpiel is not installed (extra: games)")
    run = tmp_path / "run"
    quietly("train", "mappo", f"openspiel/{game}", "--recipe", "none", *SHORT, "--out", run)
    played, said = talk(run, *lines)
    assert [one.ending for one in played] == ["finished"]
    assert shows in said
    assert any(verdict in said for verdict in ("You win.", "You lose.", "A draw."))


def test_a_recording_of_openspiel_is_refused_with_the_way_out(refused, tmp_path):
    pytest.importorskip("pyspiel", reason="OpenSpiel is not installed (extra: games)")
    run = tmp_path / "run"
    quietly("train", "mappo", "openspiel/kuhn_poker", "--recipe", "none", *SHORT, "--out", run)
    assert f"marl play {run} --human" in refused("play", run)
