"""Environments by name: the callable that makes them, and the arguments that it takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from marl.envs.imports import import_module, nearest_environment
from marl.envs.openspiel.games import import_openspiel
from marl.envs.suites import OPENSPIEL, Suite, split_name
from marl.errors import InputError, nearest


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The callable behind a name."""

    make: Callable[..., Any]
    described_by: Any = None
    """Its signature tells the arguments; None where nothing does."""
    install: str | None = None
    """Arguments of ``pip install`` where an import fails."""

    def accepted(self) -> tuple[str, ...] | None:
        """Names of the arguments, or None where they cannot be known without trying."""
        if self.described_by is None:
            return None
        try:
            parameters = inspect.signature(self.described_by).parameters.values()
        except (TypeError, ValueError):
            return None
        if any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters):
            return None
        return tuple(parameter.name for parameter in parameters if parameter.kind != parameter.VAR_POSITIONAL)


def resolve(name: str) -> Source:
    """Finds an environment by name; see ``marl.envs.factory.make_factory``.

    Raises:
        InputError: there is no such environment, or a package is missing.
    """
    if ":" in name:
        return _from_callable(name)
    found = split_name(name)
    if found is None:
        return _from_registry(name) if "/" in name else _from_module(name)
    suite, identifier = found
    return _from_openspiel(name, identifier) if suite is OPENSPIEL else _from_gymnasium(name, suite, identifier)


def _from_callable(name: str) -> Source:
    module_name, _, attribute = name.partition(":")
    module = import_module(name, module_name)
    make = getattr(module, attribute, None)
    if not callable(make):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        hint = nearest(attribute, known, list_all=False)
        raise InputError(f"{module_name} has no callable {attribute!r}{hint}")
    return Source(make=make, described_by=make)


def _from_module(name: str) -> Source:
    module = import_module(name, name)
    make = getattr(module, "parallel_env", None) or getattr(module, "env", None)
    if not callable(make):
        raise InputError(f"{name} has neither parallel_env nor env{nearest_environment(name)}")
    # The factories take **kwargs; the class behind them says which.
    return Source(make=make, described_by=getattr(module, "raw_env", make))


def _from_registry(name: str) -> Source:
    import pettingzoo
    from pettingzoo.env_registry.exceptions import PettingZooRegistryError

    found = {}
    for kind in ("parallel", "aec"):
        try:
            found[kind] = pettingzoo.spec(kind, name)
        except PettingZooRegistryError as error:
            problem = error
    if not found:
        raise InputError(f"there is no environment {name!r}{nearest_environment(name)}") from problem
    kind = "parallel" if "parallel" in found else "aec"
    spec = found[kind]
    install = f"pettingzoo[{spec.namespace}]"

    def make(**arguments: Any) -> Any:
        return pettingzoo.make(kind, spec.id, **arguments)

    described_by = None
    if isinstance(spec.entry_point, str):
        module = import_module(name, spec.entry_point.partition(":")[0], install=install)
        described_by = getattr(module, "raw_env", None)
    return Source(make=make, described_by=described_by, install=install)


def _from_openspiel(name: str, game: str) -> Source:
    import_openspiel(name, game)

    def make(**parameters: Any) -> Any:
        from marl.envs.openspiel.adapter import make_game

        return make_game(game, parameters)

    return Source(make=make, install=OPENSPIEL.install)


def _from_gymnasium(name: str, suite: Suite, identifier: str) -> Source:
    for package in suite.packages:
        import_module(name, package, install=suite.install)
    import gymnasium

    if identifier not in gymnasium.registry:
        known = [key for key in gymnasium.registry if key.lower().startswith(suite.gymnasium_ids or "")]
        hint = nearest(identifier, known, prefix=suite.name(""), list_all=False)
        raise InputError(f"{suite.packages[0]} has no environment {identifier!r}{hint}")

    def make(**arguments: Any) -> Any:
        from marl.envs.gymnasium_tuple import GymnasiumTupleEnv

        # Without gymnasium's checker, which knows single agents only.
        environment = gymnasium.make(identifier, disable_env_checker=True, **arguments).unwrapped
        return GymnasiumTupleEnv(environment, time_limit=getattr(environment, suite.time_limit, None))

    return Source(make=make, install=suite.install)
