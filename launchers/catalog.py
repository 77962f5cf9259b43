"""The algorithms by the names that the command line knows them by."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final

from launchers.text import nearest
from marl.builders import Builder
from marl.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One named algorithm: a builder of a file, and the settings that make it what its name says."""

    module: str
    builder: str
    config: str
    fixed: Mapping[str, Any] = field(default_factory=dict)

    def default_config(self) -> Any:
        """The builder's configuration with this variant's fixed settings."""
        return getattr(importlib.import_module(self.module), self.config)(**self.fixed)

    def build(self, config: Any) -> Builder[Any]:
        """The builder; InputError where the configuration contradicts the variant's name."""
        for name, value in self.fixed.items():
            if getattr(config, name) != value:
                raise InputError(f"--algorithm.{name.replace('_', '-')} is fixed by the algorithm's name: {value}")
        builder: Builder[Any] = getattr(importlib.import_module(self.module), self.builder)(config=config)
        return builder

    def config_from(self, saved: Mapping[str, Any]) -> Any:
        """The configuration that ``config.json`` holds; InputError where it does not fit this version."""
        default = self.default_config()
        known = {entry.name for entry in fields(default)}
        if unknown := sorted(set(saved) - known):
            raise InputError(f"config.json has settings that {self.config} does not know: {', '.join(unknown)}")
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in saved.items()}
        return replace(default, **values)


ALGORITHMS: Final[Mapping[str, Variant]] = {
    "mappo": Variant(
        module="algorithms.mappo", builder="MAPPO", config="MAPPOConfig", fixed={"centralized_critic": True}
    ),
    "ippo": Variant(
        module="algorithms.mappo", builder="MAPPO", config="MAPPOConfig", fixed={"centralized_critic": False}
    ),
}


def find_algorithm(name: str) -> Variant:
    """The variant of this name; InputError with the nearest name where there is none."""
    if name not in ALGORITHMS:
        raise InputError(f"there is no algorithm {name!r}{nearest(name, ALGORITHMS)}")
    return ALGORITHMS[name]
