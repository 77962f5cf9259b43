"""What the tic-tac-toe recipe is for: a policy that nobody can beat."""

import pytest
from tictactoe import lost_boards

from marl.launchers.run.trained_run import load_run


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_self_play_by_the_recipe_cannot_be_beaten_from_either_seat(marl, tmp_path, seed):
    argv = ("train", "ippo", "classic/tictactoe-v3", "--seed", seed, "--out", tmp_path / "run")
    assert marl(*argv).code == 0
    run = load_run(tmp_path / "run")
    assert lost_boards(run.policies["player"], run.spec) == (set(), set())
