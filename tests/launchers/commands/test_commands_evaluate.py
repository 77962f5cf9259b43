import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image, ImageSequence
from saved_runs import TINY

from marl.checkpoints.checkpoint import list_checkpoints

SPREAD = "mpe2.simple_spread_v3"


def test_evaluate_tells_one_line_or_one_object(marl, spread_run):
    line = marl("evaluate", spread_run, "--episodes", 2)
    assert line.stdout.startswith("return -")
    assert "over 2 greedy episodes" in line.stdout
    told = json.loads(marl("evaluate", spread_run, "--episodes", 2, "--json").stdout)
    assert {"evaluation/return_mean", "evaluation/return_ci95", "evaluation/return/agent_0"} <= told.keys()
    assert (told["env_steps"], told["evaluation/episodes"]) == (300, 2)


def test_one_episode_has_no_interval(marl, spread_run):
    assert re.fullmatch(
        r"return -\d+\.\d\d over 1 greedy episode; sampled -\d+\.\d\d",
        marl("evaluate", spread_run, "--episodes", 1).stdout.strip(),
    )
    told = json.loads(marl("evaluate", spread_run, "--episodes", 1, "--json").stdout)
    assert told["evaluation/return_ci95"] is None


def test_evaluation_depends_on_the_seed_alone(marl, spread_run):
    figures = [
        json.loads(marl("evaluate", spread_run, "--episodes", 2, "--seed", seed, "--json").stdout) for seed in (3, 3, 4)
    ]
    assert figures[0] == figures[1] != figures[2]


def test_training_evaluates_as_the_command_does(marl, spread_run):
    summary = json.loads((spread_run / "summary.json").read_text())
    told = json.loads(marl("evaluate", spread_run, "--episodes", 2, "--num-envs", 4, "--seed", 0, "--json").stdout)
    assert told["evaluation/return_mean"] == pytest.approx(summary["evaluation/return_mean"], rel=1e-6)


def test_evaluate_takes_other_arguments_of_the_environment(marl, refused, spread_run):
    short = marl("evaluate", spread_run, "--episodes", 1, "--env-kwargs", '{"max_cycles": 5}', "--json")
    assert json.loads(short.stdout)["evaluation/episode_length"] == 5
    assert "takes no argument colour" in refused("evaluate", spread_run, "--env-kwargs", '{"colour": 5}')


def test_evaluation_cuts_episodes_at_the_limit_and_says_so(marl, spread_run):
    line = marl("evaluate", spread_run, "--episodes", 2, "--max-steps", 4).stdout
    assert "over 2 greedy episodes, 2 of them cut at the step limit; sampled" in line
    assert line.splitlines()[0].endswith(", 2 cut at the step limit")
    told = json.loads(marl("evaluate", spread_run, "--episodes", 2, "--max-steps", 4, "--json").stdout)
    assert (told["evaluation/step_limits"], told["evaluation/episode_length"]) == (2, 4)


def test_evaluate_refuses_spaces_that_the_run_was_not_trained_on(refused, spread_run):
    assert "does not fit" in refused("evaluate", spread_run, "--env-kwargs", '{"N": 5}')


def test_what_is_no_run_is_refused(refused, tmp_path):
    (tmp_path / "empty").mkdir()
    for command in ("evaluate", "play", "plot", "track"):
        assert refused(command, tmp_path / "nowhere") == f"{tmp_path / 'nowhere'} is not a run: there is no such folder"
        assert "it has no config.json" in refused(command, tmp_path / "empty")
        assert f"marl {command} needs RUN" in refused(command) or command == "plot"
    assert "which runs?" in refused("plot")
    assert "--episodes must be at least 1" in refused("evaluate", tmp_path, "--episodes", 0)


def test_truncated_and_foreign_checkpoints_are_refused_in_one_line(refused, spread_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(spread_run, run)
    earlier, newest = list_checkpoints(run / "checkpoints")
    shutil.rmtree(earlier)  # to which it would go back
    tensors = newest / "tensors.safetensors"
    whole = tensors.read_bytes()
    tensors.write_bytes(whole[: len(whole) // 2])
    assert "tensors.safetensors is truncated" in refused("evaluate", run)
    tensors.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert "tensors.safetensors is damaged" in refused("evaluate", run)
    argv = ("train", "mappo", SPREAD, "--steps", 400, "--num-envs", 4, "--resume", "--out", run)
    before = (run / "metrics.jsonl").read_bytes()
    assert "tensors.safetensors is damaged" in refused(*argv)
    assert (run / "metrics.jsonl").read_bytes() == before
    shutil.rmtree(run / "checkpoints")
    assert "no checkpoint in" in refused(*argv)


def test_play_records_a_moving_picture(marl, spread_run, tmp_path):
    done = marl("play", spread_run, "--video", tmp_path / "new" / "episode.gif", "--max-steps", 6)
    assert done.code == 0, done
    with Image.open(tmp_path / "new" / "episode.gif") as picture:
        assert picture.n_frames >= 5
        assert np.asarray(picture.convert("RGB")).std() > 0
    assert "return -" in done.stdout


@pytest.mark.parametrize(("game", "steps"), [("gauge", 5), ("turn_gauge", 4)])
def test_play_records_the_last_position(marl, tmp_path, game, steps):
    run = tmp_path / "run"
    argv = ("--num-envs", 4, "--steps", 16, "--evaluation-episodes", 0, "--out", run, *TINY)
    assert marl("train", "ippo", f"untidy_games:{game}", *argv).code == 0
    done = marl("play", run, "--video", tmp_path / "whole.gif")
    assert f"{steps + 1} pictures" in done.stdout
    with Image.open(tmp_path / "whole.gif") as picture:
        shown = [int(np.asarray(frame.convert("L"))[0, 0]) for frame in ImageSequence.Iterator(picture)]
    assert shown == [40 * time for time in range(steps + 1)]
    # One that is cut off ends where it stands.
    assert "3 pictures" in marl("play", run, "--video", tmp_path / "cut.gif", "--max-steps", 2).stdout


def test_play_does_without_a_last_position_that_cannot_be_drawn(marl, tmp_path, monkeypatch):
    run = tmp_path / "run"
    argv = ("--num-envs", 4, "--steps", 16, "--evaluation-episodes", 0, "--out", run, *TINY)
    assert marl("train", "ippo", "untidy_games:gauge", *argv).code == 0

    def render(self):
        if not self.agents:
            raise RuntimeError("nobody is there")
        return np.zeros((8, 8, 3), np.uint8)

    monkeypatch.setattr("untidy_games.Gauge.render", render)
    done = marl("play", run, "--video", tmp_path / "whole.gif")
    assert (done.code, done.stderr) == (
        0,
        "marl: the last position was not drawn: untidy_games:gauge cannot draw: RuntimeError: nobody is there\n",
    )
    assert "5 pictures" in done.stdout


@pytest.mark.filterwarnings("ignore:.*calling render method")
def test_play_records_turns(marl, tictactoe_run, tmp_path):
    done = marl("play", tictactoe_run, "--video", tmp_path / "game.gif")
    # A callable without render_mode cannot be asked for pictures, and this game draws none by itself.
    assert (done.code, "draws no pictures" in done.stderr) == (2, True)


def test_a_game_is_drawn_without_a_screen_and_one_line_says_why_it_cannot(
    marl, refused, spread_run, tmp_path, monkeypatch
):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)
    argv = ("play", spread_run, "--max-steps", 2, "--video")
    assert marl(*argv, tmp_path / "game.gif").code == 0
    from mpe2._mpe_utils.simple_env import SimpleEnv

    def render(self):
        raise OSError("x11 not\navailable")

    monkeypatch.setattr(SimpleEnv, "render", render)
    said = refused(*argv, tmp_path / "other.gif")
    assert "OSError: x11 not available" in said
    assert "SDL_VIDEODRIVER=dummy" in said
    assert not (tmp_path / "other.gif").exists()


def test_play_refuses_what_it_cannot_write(refused, spread_run, tmp_path):
    assert "neither a .gif nor an .mp4" in refused("play", spread_run, "--video", tmp_path / "a.avi")
    (tmp_path / "file").touch()
    assert "cannot write" in refused("play", spread_run, "--max-steps", 1, "--video", tmp_path / "file" / "a.gif")
    assert "--fps must be at least 1" in refused("play", spread_run, "--fps", 0)


def test_plot_draws_runs(marl, refused, spread_run, tmp_path):
    for name in ("curves.png", "curves.svg"):
        done = marl("plot", spread_run, "--out", tmp_path / name)
        assert (done.code, done.stdout.strip()) == (0, str(tmp_path / name))
        assert (tmp_path / name).stat().st_size > 1000
    assert "did you mean" in refused("plot", spread_run, "--key", "episode_return/men", "--out", tmp_path / "x.png")


def test_track_replays_a_journal_offline(marl, spread_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(spread_run, run)
    done = marl("track", run, "--mode", "offline")
    assert done.code == 0, done
    assert list((run / "wandb").glob("offline-run-*/*.wandb"))


def test_doctor_finds_nothing_wrong_with_a_sound_environment(marl):
    done = marl("doctor", "classic/tictactoe-v3")
    assert done.code == 0, done
    assert "FAIL" not in done.stdout
    assert "turn-based" in done.stdout


@pytest.mark.parametrize(
    ("fault", "rule"), [("shape", "the observation has the shape of its space"), ("reward", "a reward is a number")]
)
def test_doctor_names_the_broken_rule_and_the_agent_once(marl, fault, rule):
    done = marl("doctor", "toy_game:make", "--env-kwargs", json.dumps({"fault": fault}), "--json")
    assert done.code == 1
    findings = [json.loads(line) for line in done.stdout.splitlines()]
    broken = [finding for finding in findings if finding["fatal"] and not finding["ok"]]
    assert [(finding["rule"], finding["agent"]) for finding in broken] == [(rule, "right")]


def test_doctor_tells_environments_that_cannot_be_made(marl):
    done = marl("doctor", "mpe2.simple_spred_v3")
    assert (done.code, "did you mean 'mpe2.simple_spread_v3'?" in done.stdout) == (1, True)


def test_doctor_checks_this_installation(marl):
    done = marl("doctor")
    assert done.code == 0, done
    assert "two ranks found each other" in done.stdout


def test_bench_allreduce_prints_one_figure_a_line(marl):
    done = marl("bench", "allreduce", "--ranks", 2, "--rounds", 1)
    assert done.code == 0, done
    figures = [json.loads(line) for line in done.stdout.splitlines()]
    assert figures
    for figure in figures:
        assert figure.keys() == {"name", "value", "unit", "reference", "ratio"}
        assert figure["value"] > 0
        assert figure["reference"] > 0


def test_bench_rollout_measures_its_reference_in_the_same_run(marl):
    done = marl("bench", "rollout", "--num-envs", 4, "--rounds", 1, "--seconds", "0.1")
    assert done.code == 0, done
    (figure,) = [json.loads(line) for line in done.stdout.splitlines()]
    assert figure["unit"] == "env steps/s"
    assert figure["ratio"] == pytest.approx(figure["value"] / figure["reference"])


def test_bench_refuses_names_and_counts_that_are_none(refused):
    assert refused("bench", "rolout") == "there is no benchmark 'rolout'; did you mean 'rollout'?"
    assert refused("bench", "allreduce", "--ranks", 0) == "--ranks must be at least 1, got 0"
