"""Docstrings say what a thing does, in the imperative or as a noun phrase; overriding methods may leave them out."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(path for top in ("marl", "envs", "algorithms", "launchers") for path in (ROOT / top).rglob("*.py"))
EMPTY = re.compile(r"^(See [A-Z`]|See \w+\.$)")
INDIRECT = re.compile(r"^(What|How|Whether|Where|Who|Whose|Whoever|Which|Why|When|Is told|Are told)\b")
PLAIN_BASES = {"ABC", "Generic", "Protocol", "NamedTuple", "object", "Enum", "TypedDict"}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def classes() -> dict[str, list[ast.ClassDef]]:
    found: dict[str, list[ast.ClassDef]] = {}
    for path in FILES:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ClassDef):
                found.setdefault(node.name, []).append(node)
    return found


def bases(node: ast.ClassDef) -> list[str]:
    plain = (base.value if isinstance(base, ast.Subscript) else base for base in node.bases)
    return [ast.unparse(base).rpartition(".")[2] for base in plain]


def methods(node: ast.ClassDef) -> dict[str, ast.FunctionDef]:
    return {item.name: item for item in node.body if isinstance(item, ast.FunctionDef)}


def overrides(node: ast.ClassDef, name: str) -> bool:
    """True if a base documents the method, or a base is another package's."""
    for base in bases(node):
        known = classes().get(base, [])
        if not known and base not in PLAIN_BASES:
            return True
        for parent in known:
            method = methods(parent).get(name)
            if (method is not None and ast.get_docstring(method)) or overrides(parent, name):
                return True
    return False


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_docstrings_say_what_a_thing_does(path):
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ClassDef):
            for name, method in methods(node).items():
                documented = ast.get_docstring(method) is not None or name.startswith("_") or node.name.startswith("_")
                assert documented or overrides(node, name), f"{node.name}.{name} has no docstring"
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
            text = ast.get_docstring(node) or ""
            where = getattr(node, "name", path.name)
            assert not EMPTY.match(text), f"{where}: {text}"
            assert not INDIRECT.match(text), f"{where}: {text.splitlines()[0]}"
        if isinstance(node, ast.Module):
            assert len((ast.get_docstring(node) or "").split()) > 1 or not node.body, f"{path} says nothing"
