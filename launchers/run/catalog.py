"""A catalogue from the names of algorithms on the command line to their builders.

Only commands and saved runs look names up here; from Python, builders are constructed directly.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Final, get_type_hints

from marl.errors import InputError, nearest
from marl.launchers.command_line.options import section_type

if TYPE_CHECKING:  # the launching process looks names up without loading torch
    from marl.builders import Builder


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A named algorithm: a builder, and the settings that make it what its name says."""

    module: str
    builder: str
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Settings that define the algorithm and cannot be changed."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Settings in which the algorithm's defaults differ from the builder's."""

    def _builder(self) -> type[Any]:
        builder: type[Any] = getattr(importlib.import_module(self.module), self.builder)
        return builder

    def default_config(self) -> Any:
        """The builder's default configuration with this variant's settings."""
        return replace(self._builder()().config, **self.fixed, **self.defaults)

    def build(self, config: Any) -> Builder[Any]:
        """The builder; InputError where the configuration contradicts the variant's name."""
        for name, value in self.fixed.items():
            if getattr(config, name) != value:
                raise InputError(f"--algorithm.{name.replace('_', '-')} is fixed by the algorithm's name: {value}")
        builder: Builder[Any] = self._builder()(config=config)
        return builder

    def config_from(self, saved: Mapping[str, Any]) -> Any:
        """Reads the configuration out of ``config.json``; InputError where it does not fit this version."""
        return from_saved(self.default_config(), saved)


def from_saved(default: Any, saved: Mapping[str, Any]) -> Any:
    """A dataclass with the values that ``dataclasses.asdict`` and JSON made of another of its kind.

    Raises:
        InputError: a field that it does not have.
    """
    known, hints = {entry.name for entry in fields(default)}, get_type_hints(type(default))
    if unknown := sorted(set(saved) - known):
        raise InputError(f"config.json has settings that {type(default).__name__} lacks: {', '.join(unknown)}")
    if "convolutions" in known:
        # Runs saved before this was a choice read all images with convolutions, unless a switch said no.
        before = saved.get("convolutions", True)
        saved = {**saved, "convolutions": before if isinstance(before, str) else "yes" if before else "no"}
    values: dict[str, Any] = {}
    for name, value in saved.items():
        current = getattr(default, name)
        section = section_type(hints[name], current)
        if section is not None and isinstance(value, Mapping):
            values[name] = from_saved(section() if current is None else current, value)
        else:
            values[name] = tuple(value) if isinstance(value, list) else value
    return replace(default, **values)


def _value_based(mixer: str, **defaults: Any) -> Variant:
    return Variant(module="marl.algorithms.qmix", builder="QMIX", fixed={"mixer": mixer}, defaults=defaults)


def _deterministic(centralized: bool, **defaults: Any) -> Variant:
    fixed = {"centralized_critic": centralized}
    return Variant(module="marl.algorithms.maddpg", builder="MADDPG", fixed=fixed, defaults=defaults)


ALGORITHMS: Final[Mapping[str, Variant]] = {
    "mappo": Variant(module="marl.algorithms.mappo", builder="MAPPO", fixed={"centralized_critic": True}),
    "ippo": Variant(module="marl.algorithms.mappo", builder="MAPPO", fixed={"centralized_critic": False}),
    "iql": _value_based("none", team_reward=False),
    "vdn": _value_based("vdn"),
    "qmix": _value_based("qmix"),
    "qplex": _value_based("qplex"),
    "maddpg": _deterministic(True),
    "iddpg": _deterministic(False),
    "matd3": _deterministic(True, num_critics=2, policy_delay=2, target_noise=0.2),
    "masac": Variant(module="marl.algorithms.masac", builder="MASAC", fixed={"centralized_critic": True}),
    "isac": Variant(module="marl.algorithms.masac", builder="MASAC", fixed={"centralized_critic": False}),
}


def find_algorithm(name: str) -> Variant:
    """The variant of this name; InputError with the closest name where there is none."""
    if name not in ALGORITHMS:
        raise InputError(f"there is no algorithm {name!r}{nearest(name, ALGORITHMS)}")
    return ALGORITHMS[name]
