"""Options that messages, docstrings and pages name exist: an advice that cannot be followed is none."""

import ast
import re
from pathlib import Path

import pytest
from commands import all_options

ROOT = Path(__file__).parents[1]
ROOMS = ("marl", "algorithms", "envs", "launchers", "examples")
FILES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py") if not path.is_symlink())
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
WORD = re.compile(r"(?<![\w-])--([A-Za-z][\w.-]*)")
KNOWN = {
    name[2:].replace("_", "-")
    for options in all_options().values()
    for option in options
    if not option.positional
    for name in option.names()
} | {"help", "help-all", "version"}
"""Of any command: one that only ranks or only leagues have is an option too."""
OF_OTHERS = {
    *("bind-to", "map-by", "hostfile", "with-ft"),  # mpirun
    *("mpi", "signal", "full"),  # srun and scancel
    *("force-reinstall", "no-binary"),  # pip
    "strict",  # mypy
}


def texts(path: Path) -> list[str]:
    """String constants of a module, docstrings among them; pieces of f-strings count as far as they go."""
    return [
        node.value
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]


def unknown(texts: list[str]) -> set[str]:
    found = set()
    for text in texts:
        for word in WORD.findall(text):
            name = word.replace("_", "-")
            # An f-string's piece may end within an option.
            begun = text.endswith(f"--{word}") and any(known.startswith(name) for known in KNOWN)
            if not begun and name.rstrip(".") not in KNOWN | OF_OTHERS:
                found.add(name)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_options_that_code_names_exist(path):
    assert unknown(texts(path)) == set()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_options_that_pages_name_exist(path):
    assert unknown([path.read_text()]) == set()
