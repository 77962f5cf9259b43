"""The module that a name means: a user's own ``envs`` package comes before the shipped one, module by module."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from marl.envs.names import resolve
from marl.errors import InputError

ROOT = Path(__file__).parents[2]
GAME = "def two_step():\n    return 'own'\n"
PROGRAM = """
import sys
if sys.argv[1] == "installed":
    sys.path[:] = [path for path in sys.path if path != sys.argv[2]]  # a wheel holds marl only
from marl.envs.names import resolve
from marl.errors import InputError
for name in sys.argv[3:]:
    try:
        print(resolve(name).make.__module__)
    except InputError as error:
        print(f"InputError: {error}")
"""


@pytest.fixture(params=["installed", "checkout"])
def project(request, tmp_path):
    """Writes files into a user's project; returns a function that resolves names there, in a process of its own."""
    library, folder = tmp_path / "library", tmp_path / "project"
    library.mkdir()
    (library / "marl").symlink_to(ROOT / "marl")
    folder.mkdir()

    def write(files):
        for name, text in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

        def modules_of(*names):
            paths = [folder, library] if request.param == "installed" else [folder]
            done = subprocess.run(
                [sys.executable, "-c", PROGRAM, request.param, str(ROOT), *names],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))},
                capture_output=True,
                text=True,
                check=True,
            )
            return done.stdout.splitlines()

        modules_of.installed = request.param == "installed"
        return modules_of

    return write


SHIPPED, OWN = "marl.envs.matrix_games", "envs.matrix_games"


def test_without_an_envs_of_ones_own_the_shipped_one_is_meant(project):
    modules_of = project({})
    assert modules_of(f"{OWN}:two_step", f"{SHIPPED}:two_step") == [SHIPPED, SHIPPED]


def test_a_module_of_ones_own_envs_comes_first(project):
    modules_of = project({"envs/__init__.py": "", "envs/matrix_games.py": GAME, "envs/deep/__init__.py": GAME})
    found = modules_of(f"{OWN}:two_step", f"{SHIPPED}:two_step", "envs.deep:two_step")
    assert found == [OWN, SHIPPED, "envs.deep"]


def test_modules_that_are_not_in_ones_own_envs_are_the_shipped_ones(project):
    files = {"envs/__init__.py": "", "envs/mine.py": GAME, "envs/deep/__init__.py": "", "envs/deep/own.py": GAME}
    found = project(files)(f"{OWN}:two_step", "envs.mine:two_step", "envs.deep.own:two_step")
    assert found == [SHIPPED, "envs.mine", "envs.deep.own"]


def test_ones_own_envs_need_no_init_file(project):
    modules_of = project({"envs/mine.py": GAME, "envs/deep/own.py": GAME})
    if not modules_of.installed:
        pytest.skip("Python prefers the package of the checkout, which has an __init__ file")
    found = modules_of("envs.mine:two_step", "envs.deep.own:two_step", f"{OWN}:two_step")
    assert found == ["envs.mine", "envs.deep.own", SHIPPED]


def test_a_file_called_envs_hides_nothing(project):
    assert project({"envs.py": GAME})("envs:two_step", f"{OWN}:two_step") == ["envs", SHIPPED]


def test_what_ones_own_envs_lack_is_named(project):
    (line,) = project({"envs/__init__.py": "import not_installed\n", "envs/mine.py": GAME})("envs.mine:two_step")
    assert line.startswith(
        "InputError: envs.mine:two_step needs a package that is not installed: pip install not_installed"
    )
    (line,) = project({"envs/__init__.py": "from os import nothing_like_it\n"})("envs.mine:two_step")
    assert "cannot import name 'nothing_like_it'" in line


def test_a_module_that_is_nowhere_is_no_environment(project):
    (line,) = project({"envs/__init__.py": ""})("envs.nowhere:two_step")
    assert line.startswith("InputError: there is no environment 'envs.nowhere:two_step'")


def test_in_a_checkout_of_this_project_envs_are_the_shipped_ones():
    assert resolve("envs.matrix_games:two_step").make.__module__ == "marl.envs.matrix_games"


@pytest.mark.parametrize("name", ["envs.", "envs..x", "envs:nothing"])
def test_odd_names_of_envs_are_wrong_input(name):
    with pytest.raises(InputError):
        resolve(name)
