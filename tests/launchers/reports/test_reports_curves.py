import json
import os

import numpy as np
import pytest
from scipy.stats import trim_mean

from marl.errors import InputError
from marl.launchers.reports.curve_statistics import bootstrap_band, interquartile_mean, smooth
from marl.launchers.reports.curves import format_steps, group_curves, label_groups, plot_runs, read_curve
from marl.launchers.run.run_directory import RunDirectory
from marl.loggers import JournalLogger

KEY = "episode_return/mean"


def make_run(path, *, algorithm="mappo", seed=0, rows=20, learning_rate=7e-4, env="mpe2.simple_spread_v3", offset=0):
    config = {"name": algorithm, "env": env, "seed": seed, "algorithm": {"learning_rate": learning_rate}}
    run = RunDirectory.create(path, config)
    journal = JournalLogger(run.metrics)
    noise = np.random.default_rng(seed).normal(size=rows)
    for index in range(rows):
        journal.write(
            {
                "env_steps": offset + 3200 * (index + 1),
                "updates": index + 1,
                KEY: -40.0 - 30 / (index + 1) + noise[index],
            }
        )
    journal.close()
    return run.path


@pytest.mark.parametrize(("kind", "magic"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
@pytest.mark.parametrize("statistic", ["mean", "iqm"])
def test_curves_of_seeds_and_algorithms_are_drawn_in_each_kind(tmp_path, kind, magic, statistic):
    runs = [
        make_run(tmp_path / f"{algorithm}{seed}", algorithm=algorithm, seed=seed, rows=20 + seed)
        for algorithm in ("mappo", "ippo")
        for seed in range(3)
    ]
    out = tmp_path / "pictures" / f"curve.{kind}"
    plot_runs(runs, out, statistic=statistic)
    first = out.read_bytes()
    assert first.startswith(magic)
    plot_runs(runs, out, statistic=statistic)
    assert out.read_bytes() == first
    if kind == "svg":
        text = first.decode()
        reading = "IQM" if statistic == "iqm" else "mean"
        for part in ("Environment steps", "Episode return", "mappo", "ippo", f"{reading} of 3 seeds", "simple_spread"):
            assert part in text


def test_a_lone_run_and_a_run_of_one_row_are_drawn(tmp_path):
    runs = [make_run(tmp_path / "a"), make_run(tmp_path / "b", algorithm="ippo", rows=1)]
    plot_runs(runs[:1], tmp_path / "a.svg", title="A title")
    assert "A title" in (tmp_path / "a.svg").read_text()
    assert "seed" not in (tmp_path / "a.svg").read_text()
    plot_runs(runs, tmp_path / "b.png")
    plot_runs(runs[1:], tmp_path / "c.png")


def test_runs_are_not_counted_as_seeds_where_they_share_one(tmp_path, capsys):
    def legend(*runs):
        plot_runs(runs, tmp_path / "a.svg")
        return (tmp_path / "a.svg").read_text(), capsys.readouterr().err

    same = [make_run(tmp_path / f"same{number}", seed=0) for number in range(3)]
    other = make_run(tmp_path / "other", seed=1)
    ippo = [make_run(tmp_path / f"ippo{seed}", algorithm="ippo", seed=seed) for seed in range(3)]
    text, warned = legend(*same)
    assert "mean of 3 runs of 1 seed, 95 % CI" in text
    assert "3 seeds" not in text
    assert warned.splitlines() == [
        "marl: mappo: 3 runs of 1 seed; equal seeds tell nothing about others, so the interval promises too much"
    ]
    text, warned = legend(*same, other, *ippo)
    for part in ("mean over runs, 95 % CI", "mappo (4 runs of 2 seeds)", "ippo (3 seeds)"):
        assert part in text
    assert warned.count("\n") == 1
    # The same run named twice is not two.
    assert "2 runs of 1 seed" in legend(other, other)[0]
    text, warned = legend(same[0], other, *ippo[:2])
    assert ("mean of 2 seeds, 95 % CI" in text, warned) == (True, "")


def test_runs_of_unknown_seeds_are_runs(tmp_path, capsys):
    runs = []
    for name in ("a", "b"):
        run = RunDirectory.create(tmp_path / name, {"name": "mappo"})
        run.metrics.write_text('{"env_steps":1,"x":2}\n{"env_steps":2,"x":3}\n')
        runs.append(run.path)
    plot_runs(runs, tmp_path / "a.svg", key="x")
    assert "mean of 2 runs, 95 % CI" in (tmp_path / "a.svg").read_text()
    assert capsys.readouterr().err == ""


def test_runs_of_one_configuration_are_one_group_whatever_their_seeds(tmp_path):
    runs = [make_run(tmp_path / f"{seed}", seed=seed) for seed in range(2)]
    runs.append(make_run(tmp_path / "faster", learning_rate=1e-3))
    runs.append(make_run(tmp_path / "other", algorithm="ippo"))
    groups = group_curves([read_curve(run, KEY) for run in runs])
    assert [[curve.path.name for curve in group] for group in groups] == [["0", "1"], ["faster"], ["other"]]
    assert label_groups(groups) == ["mappo, learning rate 0.0007", "mappo, learning rate 0.001", "ippo"]


def test_one_algorithm_on_two_environments_is_told_apart(tmp_path):
    runs = [make_run(tmp_path / name, env=name) for name in ("spread", "tag")]
    assert label_groups(group_curves([read_curve(run, KEY) for run in runs])) == ["mappo, env spread", "mappo, env tag"]


def test_runs_without_a_known_algorithm_are_called_after_their_folders(tmp_path):
    for name in ("a", "b"):
        run = RunDirectory.create(tmp_path / name, {"x": name})
        JournalLogger(run.metrics).close()
        run.metrics.write_text('{"env_steps":1,"loss":2}\n')
    groups = group_curves([read_curve(tmp_path / name, "loss") for name in ("a", "b")])
    assert label_groups(groups) == ["a", "b"]


def test_rows_without_a_finite_figure_are_left_out(tmp_path):
    run = RunDirectory.create(tmp_path / "a", {})
    rows = [
        {"env_steps": 2, "x": 1.0},
        {"env_steps": 3, "x": None},
        {"env_steps": 4},
        {"env_steps": 1, "x": 0.5},
        {"x": 9},
    ]
    run.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    curve = read_curve(run.path, "x")
    assert curve.steps.tolist() == [1.0, 2.0]
    assert curve.values.tolist() == [0.5, 1.0]


def test_what_cannot_be_drawn_gets_one_clear_line_and_no_picture(tmp_path):
    out = tmp_path / "curve.png"
    good = make_run(tmp_path / "good")
    empty = RunDirectory.create(tmp_path / "empty", {})
    nan = RunDirectory.create(tmp_path / "nan", {})
    nan.metrics.write_text('{"env_steps":1,"loss":null}\n')
    late = make_run(tmp_path / "late", seed=1, offset=10**6)
    cases = [
        ([], {}, "at least one run"),
        ([tmp_path / "nowhere"], {}, "no such folder"),
        ([tmp_path], {}, "no config"),
        ([good, empty.path], {}, "cannot read"),
        ([good], {"key": "episode_return/maen"}, "did you mean episode_return/mean"),
        ([good], {"key": "#"}, "it has env_steps, episode_return/mean, updates"),
        ([nan.path], {"key": "loss"}, "only values that are not finite"),
        ([good, late], {}, "no environment steps in common"),
    ]
    for runs, options, message in cases:
        with pytest.raises(InputError, match=message) as raised:
            plot_runs(runs, out, **options)
        assert "\n" not in str(raised.value)
    empty.metrics.write_text("")
    with pytest.raises(InputError, match="no metrics yet"):
        plot_runs([empty.path], out)
    for name in ("curve.bmp3", "curve"):
        with pytest.raises(InputError, match=r"use \.png"):
            plot_runs([good], tmp_path / name)
    assert not out.exists()
    assert not [name for name in os.listdir(tmp_path) if name.startswith(("curve", "."))]


def test_the_interquartile_mean_is_that_of_the_middle_half():
    # With a multiple of four values this is the trimmed mean of Agarwal et al. 2021 (rliable uses scipy's trim_mean).
    values = np.random.default_rng(0).normal(size=(5, 16))
    np.testing.assert_allclose(interquartile_mean(values), trim_mean(values, 0.25, axis=-1))
    # Five values: 1.25 are cut at each end, so 0.75, 1 and 0.75 of the middle three count.
    five = np.array([100.0, 1.0, 2.0, 4.0, -100.0])
    assert interquartile_mean(five) == pytest.approx((0.75 * 1 + 2 + 0.75 * 4) / 2.5)
    for n in (1, 2, 3):
        assert interquartile_mean(np.arange(float(n))) == pytest.approx((n - 1) / 2)


@pytest.mark.parametrize("statistic", ["mean", "iqm"])
def test_bootstrap_bands_cover_the_truth_about_as_often_as_they_say(statistic):
    # 400 points are 400 independent experiments of 20 seeds; percentile intervals are a little too narrow.
    values = np.random.default_rng(1).normal(3.0, 2.0, size=(20, 400))
    centre, lower, upper = bootstrap_band(values, statistic)
    assert np.all((lower <= centre) & (centre <= upper))
    covered = np.mean((lower <= 3.0) & (upper >= 3.0))
    assert 0.88 <= covered <= 0.98


def test_the_band_of_a_mean_is_as_wide_as_the_normal_interval():
    values = np.random.default_rng(2).normal(size=(50, 100))
    _, lower, upper = bootstrap_band(values, "mean")
    expected = 2 * 1.96 * values.std(axis=0) / np.sqrt(50)
    np.testing.assert_allclose((upper - lower).mean(), expected.mean(), rtol=0.05)


def test_equal_seeds_have_a_band_without_width():
    centre, lower, upper = bootstrap_band(np.tile(np.arange(4.0), (3, 1)), "iqm")
    np.testing.assert_allclose(lower, centre)
    np.testing.assert_allclose(upper, centre)


def test_smoothing_keeps_straight_lines_and_takes_out_noise():
    steps = np.cumsum(np.random.default_rng(0).uniform(1.0, 5.0, size=200)) + 1e9
    line = 3.0 - 1e-3 * (steps - 1e9)
    np.testing.assert_allclose(smooth(steps, line, 0.2), line, atol=1e-6)
    noise = np.random.default_rng(1).normal(size=200)
    assert smooth(steps, noise, 0.3).std() < 0.35
    np.testing.assert_array_equal(smooth(steps, noise, 0.0), noise)


def test_smoothing_takes_few_and_repeated_points():
    for steps in ([1.0], [1.0, 1.0], [1.0, 2.0], [1.0, 1.0, 5.0, 5.0, 9.0]):
        values = np.arange(float(len(steps)))
        result = smooth(np.array(steps), values, 0.1)
        assert result.shape == values.shape
        assert np.isfinite(result).all()


def test_steps_are_written_short():
    assert [format_steps(s) for s in (0, 500, 12_000, 1_500_000, 2e9)] == ["0", "500", "12k", "1.5M", "2G"]
