"""The options of a dataclass: one for each field, fields of dataclasses in it included."""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
import types
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from marl.launchers.command_line.kinds import SECTION, Choice, Count, File, Kind, Maybe, Number, Switch, Text
from marl.launchers.command_line.lists_and_maps import ChoiceOrPairs, Pairs, Several

ValueT = TypeVar("ValueT")
_POSITIONAL: Final = "positional"
Positional = Annotated[ValueT, _POSITIONAL]
"""A field that is given by its place instead of its name."""
ObjectText = Annotated[str, Pairs("N=5 name=abc", as_json=True)]
"""The text of a JSON object, which is typed as pairs or as JSON."""
TeamsText = Annotated[str, Pairs("agent_0=red agent_1=blue", texts=True, as_json=True)]
"""The text of a JSON object from agent to team, which is typed as pairs or as JSON."""
_SHARING: Final = Pairs("agent_0=a agent_1=b", texts=True)

OptionPath = tuple[str, ...]
"""Names of fields from the dataclass inwards."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """A field of a dataclass, or of one in it, as an option."""

    path: OptionPath
    kind: Kind
    default: Any
    """MISSING where the field must be given."""
    owner: type
    """The dataclass that has the field."""
    positional: bool = False
    """Whether it is given by its place."""

    @property
    def name(self) -> str:
        """As it is typed: ``--algorithm.learning-rate``; of one that is given by its place ``ENV``."""
        if self.positional:
            return self.path[-1].upper()
        return option_name(self.path)

    @property
    def description(self) -> str:
        """The field's docstring."""
        return " ".join(_field_docs(self.owner).get(self.path[-1], "").replace("``", "").split())

    def names(self) -> dict[str, bool]:
        """All that may be typed for it; False for the forms that turn a switch off."""
        names = {self.name: True}
        if isinstance(self.kind, Switch):
            *outer, last = self.path
            names[f"--no-{self.name[2:]}"] = False
            names[option_name((*outer, f"no-{last}"))] = False
        return names


def option_name(path: OptionPath) -> str:
    """The option of a path of fields: ``--algorithm.learning-rate``."""
    return f"--{'.'.join(path)}".replace("_", "-")


def find_options(kind: Any, default: Any = None) -> tuple[Option, ...]:
    """Lists the options of a dataclass, in the order of its fields.

    Args:
        kind: the dataclass; may be generic, where ``default`` has the values.
        default: an instance whose values are the defaults; those of the fields if not given.
    """
    return tuple(_walk(get_origin(kind) or kind, default, ()))


def _walk(kind: type, default: Any, outer: OptionPath) -> Iterator[Option]:
    hints = get_type_hints(kind, include_extras=True)
    for entry in fields(kind):
        hint, positional = hints[entry.name], False
        if get_origin(hint) is Annotated and _POSITIONAL in hint.__metadata__:
            hint, positional = get_args(hint)[0], True
        value = getattr(default, entry.name) if default is not None else default_of(entry)
        path = (*outer, entry.name)
        inner = section_type(hint, value)
        if inner is None:
            yield Option(path=path, kind=kind_of(hint), default=value, owner=kind, positional=positional)
            continue
        if value is None or _is_optional(hint):
            yield Option(path=path, kind=SECTION, default=value is not None, owner=kind)
        yield from _walk(inner, value, path)


def default_of(entry: Any) -> Any:
    """The default of a dataclass's field; MISSING where there is none."""
    if entry.default is not MISSING:
        return entry.default
    return MISSING if entry.default_factory is MISSING else entry.default_factory()


def section_type(hint: Any, value: Any) -> type | None:
    """The dataclass of a field whose value is one, or may be one; None for other fields."""
    if is_dataclass(value):
        return type(value)
    return next((part for part in (hint, *get_args(hint)) if isinstance(part, type) and is_dataclass(part)), None)


def _is_optional(hint: Any) -> bool:
    return get_origin(hint) in (Union, types.UnionType) and type(None) in get_args(hint)


def kind_of(hint: Any) -> Kind:
    """The kind of value that a type of field takes.

    Raises:
        TypeError: none was thought of for it.
    """
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return next((extra for extra in hint.__metadata__ if isinstance(extra, Kind)), None) or kind_of(parts[0])
    if origin in (Union, types.UnionType):
        others = [part for part in parts if part is not type(None)]
        kind = kind_of(others[0]) if len(others) == 1 else _sharing(others)
        return Maybe(kind) if len(others) < len(parts) else kind
    if origin is Literal:
        return Choice(parts)
    if origin is tuple:
        return Several(kind_of(parts[0]), None if parts[-1] is ... else len(parts))
    simple: dict[Any, Kind] = {bool: Switch(), int: Count(), float: Number(), str: Text(), Path: File()}
    if hint not in simple:
        raise TypeError(f"no option takes {hint}")
    return simple[hint]


def _sharing(parts: list[Any]) -> Kind:
    words, pairs = parts
    if get_origin(words) is not Literal or get_origin(pairs) is not Mapping:
        raise TypeError(f"no option takes {parts}")
    return ChoiceOrPairs(Choice(get_args(words)), _SHARING)


@functools.cache
def _field_docs(kind: type) -> dict[str, str]:
    """The docstrings of a dataclass's fields, those that it inherits included."""
    docs: dict[str, str] = {}
    for owner in reversed(kind.__mro__):
        if not is_dataclass(owner):
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
        assert isinstance(tree, ast.ClassDef)
        for field, text in zip(tree.body, tree.body[1:], strict=False):
            if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
                continue
            if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                docs[field.target.id] = str(text.value.value)
    return docs
