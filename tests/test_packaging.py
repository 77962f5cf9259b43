"""What is installed is importable as ``marl`` alone, and a user's own envs/, algorithms/ and launchers/ stay theirs."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOPS = ("envs", "algorithms", "launchers")
GRID = """
from marl.envs.matrix_games import two_step
def make():
    print("the user's own")
    return two_step()
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from the files that git knows, as a release would be."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if name.partition("/")[0] in ("marl", *TOPS) or "/" not in name:
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, source / name, follow_symlinks=False)
    build = f"from setuptools import build_meta; print(build_meta.build_wheel({str(built)!r}))"
    subprocess.run([sys.executable, "-c", build], cwd=source, capture_output=True, check=True)
    (path,) = built.iterdir()
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """An environment of its own, with the wheel and the packages that it needs, and nothing of this checkout."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    pip = [python, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "install", "--no-deps", "--no-index", wheel], check=True)
    packages = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    # Other packages than marl are those of this environment; finders of editable installs are not among them.
    (Path(packages) / "needed.pth").write_text("\n".join(path for path in sys.path if path.endswith("-packages")))
    return folder


@pytest.fixture
def project(tmp_path):
    """A user's project with the three commonest names, whose files must not be taken for ours."""
    for top, name in (("envs", "spaces"), ("algorithms", "mappo"), ("launchers", "main")):
        (tmp_path / top).mkdir()
        (tmp_path / top / "__init__.py").write_text("")
        (tmp_path / top / f"{name}.py").write_text("raise RuntimeError('this is the user\\'s')")
    (tmp_path / "envs" / "grid.py").write_text(GRID)
    return tmp_path


def test_the_wheel_brings_one_name(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names if ".dist-info" not in name} == {"marl"}
    for package in ("marl", *TOPS):
        files = {path.relative_to(ROOT) for path in (ROOT / package).rglob("*.py")}
        expected = {str(path) if package == "marl" else f"marl/{path}" for path in files}
        assert expected <= set(names)
        assert f"{'marl' if package == 'marl' else f'marl/{package}'}/py.typed" in names


def test_commands_run_beside_a_project_that_has_all_three_names(installed, project):
    def marl(*words: str) -> str:
        done = subprocess.run(
            [installed / "bin" / "marl", *words],
            cwd=project,
            env={**os.environ, "PYTHONPATH": str(project)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done
        return done.stdout

    short = ("--steps", "64", "--num-envs", "4", "--evaluation-episodes", "2", "--algorithm.rollout-length", "8")
    assert "the user's own" in marl("train", "mappo", "envs.grid:make", *short, "--out", "own")
    assert "the user's own" not in marl("train", "mappo", "envs.matrix_games:two_step", *short, "--out", "shipped")
    assert json.loads(marl("evaluate", "own", "--episodes", "2", "--json").splitlines()[-1])


def test_the_checkout_is_what_this_environment_imports():
    import marl.envs.factory

    assert Path(marl.envs.factory.__file__).resolve() == ROOT / "envs" / "factory.py"
