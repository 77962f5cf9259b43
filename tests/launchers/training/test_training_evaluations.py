"""Evaluations of runs: what they report, where it goes, and how long they may take."""

import json

import pytest
from command_line import rows_of
from saved_runs import timeless

SMALL = ("--num-envs", 4, "--recipe", "none", "--evaluation-episodes", 4)
PPO = (*SMALL, "--steps", 160, "--algorithm.rollout-length", 20, "--compile", "no")
REPLAY = (*SMALL, "--steps", 160, "--algorithm.replay.min-size", 40, "--algorithm.replay.batch-size", 8)
ALGORITHMS = {
    "ippo": PPO,
    "mappo": PPO,
    "iql": REPLAY,
    "qmix": REPLAY,
    "iddpg": REPLAY,
    "masac": REPLAY,
}
NAMES = [
    *(
        "mean",
        "robot.1",
        "red/0",
        "Ärger ☃",
        "",
        "0",
        "('red', 0)",
        "a%b",
        "{c}",
        "--x",
        "wolf_1",
        "wolf",
        "a=1",
        "b,c",
    ),
    *("evaluation", "$x^$", "[red]", "_", "all"),
]


def labels(names):
    return [{"": "'' (agent)", "mean": "mean (agent)"}.get(name, name) for name in names]


def check_named_run(marl, run, names, algorithm, options):
    arguments = ("--env-kwargs", json.dumps({"names": names}), "--algorithm.sharing", "none", "--out", run)
    done = marl("train", algorithm, "reporting_games:paid", *options, *arguments)
    assert done.code == 0, done
    told = json.loads(marl("evaluate", run, "--episodes", 2, "--json").stdout)
    for number, label in enumerate(labels(names)):
        for row, key in (
            (rows_of(run)[-1], "episode_return/"),
            (rows_of(run, final=True)[0], "evaluation/return/"),
            (told, "evaluation/return/"),
        ):
            assert row[f"{key}{label}"] == 5.0 * (number + 1)
    total = 5.0 * len(names) * (len(names) + 1) / 2
    assert rows_of(run)[-1]["episode_return/mean"] == told["evaluation/return_mean"] == total
    assert rows_of(run)[-1]["info/battle_won"] == told["evaluation/info/battle_won"] == 1.0
    again = marl("train", algorithm, "reporting_games:paid", *options, *arguments, "--steps", 320, "--resume")
    assert again.code == 0, again
    assert rows_of(run)[-1]["episode_return/mean"] == total


def test_agents_may_have_any_name(marl, tmp_path):
    check_named_run(marl, tmp_path / "run", NAMES, "ippo", PPO)
    for key in ("episode_return/$x^$", "episode_return/_", "episode_return/'' (agent)"):
        assert marl("plot", tmp_path / "run", "--key", key, "--out", tmp_path / "curve.png").code == 0


@pytest.mark.parametrize("algorithm", [name for name in ALGORITHMS if name != "ippo"])
def test_all_families_take_any_name(marl, tmp_path, algorithm):
    check_named_run(marl, tmp_path / "run", ["robot.1", ""], algorithm, ALGORITHMS[algorithm])


@pytest.mark.parametrize(("algorithm", "sampled"), [("ippo", True), ("iql", False)])
def test_modes_are_those_in_which_the_policies_act(marl, refused, tmp_path, algorithm, sampled):
    game = ("reporting_games:paid", "--env-kwargs", '{"names": ["a", "b"]}')
    run = tmp_path / "run"
    done = marl("train", algorithm, *game, *ALGORITHMS[algorithm], "--out", run)
    assert ("; sampled 15.00" in done.stdout) == sampled
    for told in (rows_of(run, final=True)[0], json.loads((run / "summary.json").read_text())):
        assert ("evaluation/sampled/return_mean" in told) == sampled
        assert told["evaluation/return_mean"] == 15.0
    if sampled:
        alone = marl("evaluate", run, "--episodes", 2, "--evaluation-policy", "sampled")
        assert alone.stdout.startswith("return 15.00 ± 0.00 (95 %) over 2 sampled episodes")
    else:
        for command in (("evaluate", run), ("train", algorithm, *game, *ALGORITHMS[algorithm])):
            assert "deterministic once they are trained" in refused(*command, "--evaluation-policy", "sampled")


def test_opposed_sides_report_their_games(marl, tmp_path):
    run = tmp_path / "run"
    done = marl("train", "ippo", "reporting_games:higher", *PPO, "--out", run)
    line, *lines = [line for line in done.stdout.splitlines() if line.startswith(("evaluation", "greedy", "sampled"))]
    assert "return" not in line
    assert "against random moves over 4 greedy episodes; sampled" in line
    assert [text.partition(":")[0] for text in lines] == [
        f"{mode}, {games}" for mode in ("greedy", "sampled") for games in ("among themselves", "against random moves")
    ]
    (final,) = rows_of(run, final=True)
    for prefix in ("", "random/", "sampled/", "sampled/random/"):
        rates = [final[f"evaluation/{prefix}{kind}_rate/p_1"] for kind in ("win", "draw", "loss")]
        assert sum(rates) == pytest.approx(1.0)


def test_a_resumed_run_does_not_repeat_its_final_row(marl, tmp_path):
    run = tmp_path / "run"
    argv = ("train", "ippo", "reporting_games:higher", *PPO, "--out", run, "--tensorboard")
    marl(*argv)
    before = [rows_of(run, final=final) for final in (False, True)]
    assert len(before[1]) == 1
    assert "is finished" in marl(*argv, "--resume").stdout
    # Ended between its last row and its summary, it evaluates once more.
    (run / "summary.json").unlink()
    assert marl(*argv, "--resume").code == 0
    assert [rows_of(run, final=final)[-1].keys() for final in (False, True)] == [rows[-1].keys() for rows in before]
    assert timeless(rows_of(run, final=True)) == timeless(before[1])
    # A longer run keeps what was found on its way.
    assert marl(*argv, "--resume", "--steps", 320).code == 0
    assert [row["evaluation/final_env_steps"] for row in rows_of(run, final=True)] == [160, 320]


SLOW = ("--num-envs", 1, "--recipe", "none", "--steps", 40, "--algorithm.rollout-length", 20, "--compile", "no")


def test_an_evaluation_longer_than_the_watchdog_waits_is_no_hang(start, tmp_path):
    # Three episodes of five steps of 0.2 seconds, against a second.
    process = start(
        *("train", "ippo", "reporting_games:slow_evaluation", *SLOW, "--evaluation-episodes", 3, "--watchdog", 1.0),
        *("--evaluation-policy", "greedy", "--out", tmp_path / "run"),
    )
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, (stdout, stderr)
    assert "over 3 greedy episodes" in stdout


def test_a_hang_within_an_evaluation_is_found(start, tmp_path):
    process = start(
        *("train", "ippo", "reporting_games:hanging_evaluation", *SLOW, "--evaluation-episodes", 3, "--watchdog", 3.0),
        *("--out", tmp_path / "run"),
    )
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 1, (stdout, stderr)
    assert "rank 0 is late, in its own work since update 2" in stderr
    assert "greedy evaluation" not in stdout
