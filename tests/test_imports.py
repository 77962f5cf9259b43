"""Which file may import which, read from the source and not trusted: layers, rooms, no circle, no arrow back.

Every import counts, also those within functions, those under TYPE_CHECKING, and modules that are imported by name.
"""

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("marl", "envs", "algorithms", "launchers")
LAYERS = (
    ("marl",),  # the ground: files that lie in marl/ itself
    ("resources",),
    ("distributed", "checkpoints", "networks", "loggers", "ratings", "games", "replay"),
    ("learning", "acting", "adders"),
    ("experiments",),
    ("self_play", "testing"),
    ("league",),
)
"""Rooms of the library; a file imports from its own room and from lower layers."""
MAY_IMPORT = {
    "marl": {"marl"},
    "envs": {"marl", "envs"},
    "algorithms": {"marl", "algorithms"},
    "launchers": set(PACKAGES),
}
SUITES = {"pettingzoo", "gymnasium", "supersuit", "mpe2", "pyspiel", "lbforaging", "rware", "magent2"}


@cache
def files() -> dict[str, Path]:
    """Modules by the names that they are imported by."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            parts = parts if package == "marl" else ("marl", *parts)
            found[".".join(parts).removesuffix(".__init__")] = path
    return found


def package_of(name: str) -> str:
    """Which of the four folders a module lies in."""
    second = (*name.split("."), "")[1]
    return second if second in PACKAGES else "marl"


def room_of(name: str) -> tuple[str, str]:
    """The package, and the folder in it or, for a file that lies in the package itself, the package once more."""
    package = package_of(name)
    path = files()[name].relative_to(ROOT / package)
    return package, path.parts[0] if len(path.parts) > 1 else package


def layer_of(room: str) -> int:
    return next(level for level, rooms in enumerate(LAYERS) if room in rooms)


def imported(path: Path) -> Iterator[str]:
    """Full names of what a file imports, wherever in the file, and of modules of ours that it imports by name."""
    tree = ast.parse(path.read_text())
    by_name = any(isinstance(node, ast.Attribute) and node.attr == "import_module" for node in ast.walk(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} has a relative import"
            assert node.module
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                yield submodule if submodule in files() else node.module
        elif by_name and isinstance(node, ast.Constant) and isinstance(node.value, str):
            name = node.value.partition(":")[0]
            if name in files() and name.startswith("marl."):
                yield name


@cache
def arrows() -> dict[str, set[str]]:
    """From every module to those of ours that it imports."""
    return {
        name: {other for other in imported(path) if other in files() and other != name}
        for name, path in files().items()
    }


def outside(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imported(path)}


def test_there_is_no_circle():
    # A package's __init__ runs before the files in it; what it offers of them is no arrow back.
    faces = {name for name, path in files().items() if path.name == "__init__.py"}
    graph = {
        name: {other for other in others if not (name in faces and other.startswith(f"{name}."))}
        for name, others in arrows().items()
    }
    assert len(list(TopologicalSorter(graph).static_order())) >= len(files())


@pytest.mark.parametrize("name", sorted(name for name in files() if package_of(name) == "marl"))
def test_the_library_imports_its_own_room_and_lower_layers(name):
    _, room = room_of(name)
    for other in arrows()[name]:
        package, target = room_of(other)
        if other == "marl":
            continue  # the version
        assert package == "marl", f"{name} imports {other}"
        assert target == room or layer_of(target) < layer_of(room), f"{name} imports {other}"


def test_packages_import_one_way():
    for name, others in arrows().items():
        wrong = {other for other in others if package_of(other) not in MAY_IMPORT[package_of(name)]}
        assert not wrong, f"{name} imports {wrong}"


def test_an_algorithm_imports_family_rooms_and_never_another_algorithm():
    for name, others in arrows().items():
        if package_of(name) == "algorithms":
            wrong = {other for other in others if room_of(other) == ("algorithms", "algorithms")}
            assert not wrong, f"{name} imports {wrong}"


def test_every_room_has_its_layer():
    rooms = {room_of(name)[1] for name in files() if package_of(name) == "marl"}
    assert rooms == {room for layer in LAYERS for room in layer}


def test_the_library_knows_no_environment_suite_and_no_mpi():
    for name, path in files().items():
        if package_of(name) == "marl":
            assert not outside(path) & (SUITES | {"mpi4py"}), name


def test_algorithms_know_no_environment_suite():
    for name, path in files().items():
        if package_of(name) == "algorithms":
            assert not outside(path) & SUITES, name


def test_one_room_imports_mpi4py():
    importers = {room_of(name) for name, path in files().items() if "mpi4py" in outside(path)}
    assert importers == {("launchers", "mpi")}


def test_no_module_opens_pickles():
    for name, path in files().items():
        assert not outside(path) & {"pickle", "cloudpickle", "dill", "joblib", "shelve"}, name


def test_everything_is_imported_by_one_name():
    """``envs``, ``algorithms`` and ``launchers`` are commonest names of users' own folders; ours begin with marl."""
    for path in (*files().values(), *(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")):
        bare = {name for name in imported(path) if name.partition(".")[0] in {"envs", "algorithms", "launchers"}}
        assert not bare, f"{path.relative_to(ROOT)} imports {bare}"


def test_the_interfaces_stay_one_short_file():
    assert len((ROOT / "marl" / "core.py").read_text().splitlines()) <= 200


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_is_typed(package):
    assert (ROOT / package / "py.typed").exists()


def test_names_of_test_files_are_unique():
    names = [path.name for path in (ROOT / "tests").rglob("*.py") if path.name != "conftest.py"]
    assert len(names) == len(set(names))
