"""Imports go one way: marl <- envs, marl <- algorithms, all three <- launchers. Read from the source, not trusted."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("marl", "envs", "algorithms", "launchers")
MAY_IMPORT = {
    "marl": {"marl"},
    "envs": {"marl", "envs"},
    "algorithms": {"marl", "algorithms"},
    "launchers": set(PACKAGES),
}
SUITES = {"pettingzoo", "gymnasium", "supersuit", "mpe2", "shimmy", "pyspiel", "lbforaging", "rware", "magent2"}


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Full names of what a file imports, wherever in the file; relative ones resolved."""
    here = path.relative_to(ROOT).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(here[: len(here) - node.level]) if node.level else ""
            yield ".".join(filter(None, (base, node.module or "")))


def tops(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imports(path)}


def dynamic_imports(path: Path) -> Iterator[str]:
    """Strings that look like modules of ours in a file that imports by name."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            first, dot, rest = node.value.partition(".")
            if first in PACKAGES and dot and rest.replace(".", "").replace("_", "").replace(":", "").isalnum():
                yield node.value


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_go_one_way(package):
    assert modules(package)
    for path in modules(package):
        wrong = (tops(path) & set(PACKAGES)) - MAY_IMPORT[package]
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"
        by_name = {name.partition(".")[0] for name in dynamic_imports(path)} - MAY_IMPORT[package]
        assert not by_name, f"{path.relative_to(ROOT)} names modules of {by_name}"


def test_the_library_knows_no_environment_suite_and_no_mpi():
    for path in modules("marl"):
        wrong = tops(path) & (SUITES | {"mpi4py"})
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


def test_algorithms_know_no_environment_suite():
    for path in modules("algorithms"):
        assert not tops(path) & SUITES, path


def test_mpi4py_has_one_importer():
    importers = [path for package in PACKAGES for path in modules(package) if "mpi4py" in tops(path)]
    assert {path.relative_to(ROOT).parts[:2] for path in importers} == {("launchers", "mpi")}


def test_no_module_opens_pickles():
    for package in PACKAGES:
        for path in modules(package):
            assert not tops(path) & {"pickle", "cloudpickle", "dill", "joblib", "shelve"}, path


def test_the_interfaces_stay_one_short_file():
    lines = (ROOT / "marl" / "core.py").read_text().splitlines()
    assert len(lines) <= 200


def test_every_package_is_typed_and_listed():
    listed = (ROOT / "setup.cfg").read_text().split("packages =\n", 1)[1].split("install_requires")[0].split()
    folders = {path.parent for package in PACKAGES for path in modules(package)}
    assert {".".join(folder.relative_to(ROOT).parts) for folder in folders} == set(listed)
    for package in PACKAGES:
        assert (ROOT / package / "py.typed").exists()
