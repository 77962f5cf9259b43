"""Comparison of configurations: differences between a saved one and a new one, and which of them matter."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

from marl.errors import InputError
from marl.experiments.config import Schedule
from marl.files import render_json
from marl.launchers.run.run_directory import RUN_ID, RunDirectory

SCHEDULE_FIELDS: Final = tuple(field.name for field in fields(Schedule))
"""Settings that may differ between a run and its continuation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One field in which two configurations differ; ``missing`` stands for a field that one of them lacks."""

    field: str
    saved: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.field} was {_show(self.saved)}, now {_show(self.new)}"


class _Missing:
    def __repr__(self) -> str:
        return "not there"


missing: Final = _Missing()


def compare_configs(
    saved: Mapping[str, Any], new: Mapping[str, Any], *, ignore: Collection[str] = ()
) -> list[Difference]:
    """Lists the differences between two configurations, by dotted field names in sorted order.

    Args:
        saved: as read from ``config.json``.
        new: anything that JSON can hold; tuples count as lists.
        ignore: dotted names of fields, or of whole parts, that may differ. ``run_id`` always may.
    """
    before = flatten_config(saved)
    after = flatten_config(json.loads(render_json(new)))
    names = sorted(
        name
        for name in before.keys() | after.keys()
        if not any(name == part or name.startswith(f"{part}.") for part in (*ignore, RUN_ID))
    )
    differences = []
    for name in names:
        old, current = before.get(name, missing), after.get(name, missing)
        # 1 and True, or 1 and 1.0, are equal to Python; only the first pair is a difference here.
        if old != current or isinstance(old, bool) != isinstance(current, bool):
            differences.append(Difference(field=name, saved=old, new=current))
    return differences


def refuse_other_config(run: RunDirectory, new: Mapping[str, Any], *, ignore: Collection[str] = ()) -> None:
    """Refuses to resume a run with another configuration; arguments as in ``compare_configs``.

    Raises:
        InputError: names each field that differs, its saved and its new value.
    """
    if differences := compare_configs(run.config, new, ignore=ignore):
        raise InputError(
            f"cannot resume {run.path} with another configuration: {'; '.join(map(str, differences))}; "
            "give the saved values, or begin a new run with another --out"
        )


def flatten_config(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"a": {"b": 1}}`` as ``{"a.b": 1}``; lists and empty objects are values."""
    return dict(_fields(config, prefix))


def _fields(config: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from _fields(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _show(value: Any) -> str:
    return "not there" if value is missing else json.dumps(value, ensure_ascii=False)
