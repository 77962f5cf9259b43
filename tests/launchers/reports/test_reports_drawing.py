"""Pictures: drawn without pyplot's backends, never at the cost of a run, and legible."""

import builtins
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import HERE, SHORT, rows_of
from saved_runs import TINY

from marl.errors import InputError
from marl.launchers.reports.drawing import is_drawn, label_points, new_figure, text_colour

TRAIN = ("train", "ippo", "toy_game:make", "--steps", 32, *SHORT, *TINY, "--compile", "no", "--out")


@pytest.fixture
def without_matplotlib(monkeypatch):
    """It cannot be imported, as where it is not installed."""
    real = builtins.__import__

    def refuse(name, *rest):
        if name.partition(".")[0] == "matplotlib":
            raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib")
        return real(name, *rest)

    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", refuse)


@pytest.mark.parametrize("backend", ["module://matplotlib_inline.backend_inline", "nonsense"])
def test_a_run_is_drawn_and_evaluated_whatever_mplbackend_says(start, tmp_path, backend):
    run = tmp_path / "run"
    process = start(*TRAIN, run, MPLBACKEND=backend)
    stdout, stderr = process.communicate(timeout=120)
    assert (process.returncode, stderr) == (0, ""), stdout
    assert "evaluation: return" in stdout
    assert stdout.rstrip().endswith("summary.json, learning_curve.png")
    assert (run / "learning_curve.png").read_bytes().startswith(b"\x89PNG")


def test_the_users_own_backend_is_left_to_them():
    program = (
        "from marl.launchers.reports.drawing import new_figure; new_figure(1, 1); "
        "import os, matplotlib; print(matplotlib.rcParams['backend'], os.environ['MPLBACKEND'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={**os.environ, "MPLBACKEND": "svg"},
    )
    assert done.stdout.split() == ["svg", "svg"]


def test_a_run_whose_curve_cannot_be_drawn_is_finished_with_one_warning(marl, tmp_path, monkeypatch):
    def fail(*argv, **settings):
        raise RuntimeError("no fonts\nat all")

    monkeypatch.setattr("marl.launchers.reports.curves.plot_runs", fail)
    done = marl(*TRAIN, tmp_path / "run")
    assert (done.code, done.stderr) == (0, "marl: learning_curve.png was not drawn: RuntimeError: no fonts at all\n")
    assert "evaluation: return" in done.stdout
    assert done.stdout.rstrip().endswith("checkpoints/, summary.json")
    assert len(rows_of(tmp_path / "run")) == 2


@pytest.mark.usefixtures("without_matplotlib")
def test_without_matplotlib_training_and_tournaments_do_without_pictures(marl, refused, tmp_path):
    done = marl(*TRAIN, tmp_path / "run")
    (line,) = done.stderr.splitlines()
    assert (done.code, line.endswith("pip install matplotlib")) == (0, True), done
    assert "learning_curve" not in done.stdout
    argv = ("toy_match:make", "--players", "high=toy_match:High", "random", "--games", 4, "--out", tmp_path / "t")
    done = marl("tournament", *argv)
    (line,) = done.stderr.splitlines()
    assert (done.code, line.startswith("marl: report.png was not drawn: matplotlib cannot be imported")) == (0, True)
    assert "results.json, report.html, games.jsonl" in done.stdout
    assert "pip install matplotlib" in refused("plot", tmp_path / "run", "--out", tmp_path / "x.png")


def test_only_failures_of_drawing_are_warnings(capsys):
    assert is_drawn("a.png", lambda: None)
    assert not is_drawn("a.png", lambda: Path("/nowhere/at/all").write_bytes(b""))
    assert capsys.readouterr().err.startswith("marl: a.png was not drawn: FileNotFoundError: ")

    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        is_drawn("a.png", interrupt)


def test_no_picture_is_drawn_through_pyplot():
    root = HERE.parents[1]
    sources = [
        path
        for folder in ("marl", "envs", "algorithms", "launchers", "benchmarks", "examples")
        for path in (root / folder).rglob("*.py")
    ]
    assert [path for path in sources if "pyplot" in path.read_text() and path.name != "drawing.py"] == []


def contrast(one, other):
    """WCAG 2.1's contrast ratio of two greys or colours."""

    def luminance(colour):
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in colour]
        return float(np.dot([0.2126, 0.7152, 0.0722], linear))

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_text_has_the_contrast_that_wcag_asks_for_on_every_colour():
    assert contrast((0, 0, 0), (1, 1, 1)) == pytest.approx(21)
    assert text_colour((0.65, 0.0, 0.15)) == "white"  # the dark red of a lost matchup
    assert text_colour((1.0, 1.0, 0.75)) == "black"
    grid = np.linspace(0, 1, 9)
    for colour in ((r, g, b) for r in grid for g in grid for b in grid):
        chosen = (0.0, 0.0, 0.0) if text_colour(colour) == "black" else (1.0, 1.0, 1.0)
        assert contrast(chosen, colour) >= 4.5


def test_every_point_has_its_name_and_no_name_hides_another():
    figure = new_figure(5, 4)
    axes = figure.add_subplot()
    points = [(1000.0 * (n // 2), float(100 * (n % 2))) for n in range(8)] + [(3000.0, 101.0)]
    axes.plot(*zip(*points, strict=True), "o")
    axes.margins(x=0.15, y=0.1)
    names = [f"player {n}" for n in range(len(points))]
    label_points(axes, points, names)
    assert [text.get_text() for text in axes.texts] == names
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in axes.texts]
    assert not [(a, b) for i, a in enumerate(boxes) for b in boxes[:i] if a.overlaps(b)]


def test_nothing_is_drawn_where_the_folder_cannot_be_made(tmp_path):
    from marl.launchers.reports.curves import plot_runs

    with pytest.raises(InputError, match="at least one run"):
        plot_runs([], tmp_path / "a.png")
