"""Names."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import os
import pkgutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from marl.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    make: Callable[..., Any]
    described_by: Any = None
    """Whose signature tells the arguments; None where nothing does."""
    install: str | None = None
    """What to install where an import fails."""

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


def _resolve(name: str) -> _Source:
    prefix, _, rest = name.partition("/")
    if ":" in name:
        return _from_callable(name)
    if prefix == "openspiel" and rest:
        return _from_openspiel(name, rest)
    if prefix in _TUPLE_SUITES and rest:
        return _from_gymnasium(name, prefix, rest)
    if "/" in name:
        return _from_registry(name)
    return _from_module(name)


def _from_callable(name: str) -> _Source:
    module_name, _, attribute = name.partition(":")
    module = _import(name, module_name)
    make = getattr(module, attribute, None)
    if not callable(make):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise InputError(f"{module_name} has no callable {attribute!r}{_nearest(attribute, known)}")
    return _Source(make=make, described_by=make)


def _from_module(name: str) -> _Source:
    module = _import(name, name)
    make = getattr(module, "parallel_env", None) or getattr(module, "env", None)
    if not callable(make):
        raise InputError(f"{name} has neither parallel_env nor env{_nearest(name, _known_names())}")
    # The factories take **kwargs; the class behind them says which.
    return _Source(make=make, described_by=getattr(module, "raw_env", make))


def _from_registry(name: str) -> _Source:
    import pettingzoo
    from pettingzoo.env_registry.exceptions import PettingZooRegistryError

    found = {}
    for kind in ("parallel", "aec"):
        try:
            found[kind] = pettingzoo.spec(kind, name)
        except PettingZooRegistryError as error:
            problem = error
    if not found:
        raise InputError(f"there is no environment {name!r}{_nearest(name, _known_names())}") from problem
    kind = "parallel" if "parallel" in found else "aec"
    spec = found[kind]
    install = f"pettingzoo[{spec.namespace}]"

    def make(**arguments: Any) -> Any:
        return pettingzoo.make(kind, spec.id, **arguments)

    described_by = None
    if isinstance(spec.entry_point, str):
        module = _import(name, spec.entry_point.partition(":")[0], install)
        described_by = getattr(module, "raw_env", None)
    return _Source(make=make, described_by=described_by, install=install)


def _from_openspiel(name: str, game: str) -> _Source:
    pyspiel = _import(name, "pyspiel", "open-spiel")
    _import(name, "shimmy", "shimmy")
    known = pyspiel.registered_names()
    if game.partition("(")[0] not in known:
        raise InputError(f"OpenSpiel has no game {game!r}{_nearest(game, known, 'openspiel/')}")

    def make(**parameters: Any) -> Any:
        from marl.envs.openspiel.adapter import make_game

        try:
            return make_game(game, parameters)
        except RuntimeError as error:  # pyspiel.SpielError
            raise ValueError(_line(error)) from error

    return _Source(make=make, install="open-spiel shimmy")


_TUPLE_SUITES = {"lbf": ("lbforaging", "_max_episode_steps"), "rware": ("rware", "max_steps")}
"""Package, and the attribute that holds the step limit."""


def _from_gymnasium(name: str, suite: str, identifier: str) -> _Source:
    package, limit = _TUPLE_SUITES[suite]
    _import(name, package, package)
    import gymnasium

    if identifier not in gymnasium.registry:
        stem = "foraging" if suite == "lbf" else suite
        known = [key for key in gymnasium.registry if key.lower().startswith(stem)]
        raise InputError(f"{package} has no environment {identifier!r}{_nearest(identifier, known, f'{suite}/')}")

    def make(**arguments: Any) -> Any:
        from marl.envs.gymnasium_tuple import GymnasiumTupleEnv

        # Without gymnasium's checker, which knows single agents only.
        environment = gymnasium.make(identifier, disable_env_checker=True, **arguments).unwrapped
        return GymnasiumTupleEnv(environment, time_limit=getattr(environment, limit, None))

    return _Source(make=make, install=package)


def _located(module: str) -> str:
    """Where a module is imported from: a user's own ``envs`` before the one that is shipped as ``marl.envs``."""
    if module.partition(".")[0] != "envs":
        return module
    shipped = f"marl.{module}"
    try:
        found, ours = importlib.util.find_spec(module), importlib.util.find_spec(shipped)
    except (ImportError, ValueError):
        return shipped
    if found is None or found.origin is None:
        return shipped
    same = ours is not None and ours.origin is not None and os.path.samefile(found.origin, ours.origin)
    return shipped if same else module


def _import(name: str, module: str, install: str | None = None) -> ModuleType:
    module = _located(module)
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        top = module.partition(".")[0]
        inside = error.name is not None and (module == error.name or module.startswith(f"{error.name}."))
        if inside and importlib.util.find_spec(top) is not None:
            # The package is there, the module in it is not.
            raise InputError(f"there is no environment {name!r}{_nearest(name, _known_names(top))}") from error
        if inside and top not in _KNOWN_PACKAGES and install is None:
            raise InputError(
                f"there is no environment {name!r}{_nearest(name, _known_names())}, and no package {top!r} is installed"
            ) from error
        raise _missing_package(name, error, install) from error
    except ImportError as error:
        raise _missing_package(name, error, install) from error
    except (ValueError, TypeError) as error:
        raise InputError(f"{name!r} is no name of an environment{_nearest(name, _known_names())}") from error


_KNOWN_PACKAGES = ("mpe2", "pettingzoo", "magent2", "shimmy", "lbforaging", "rware", "pyspiel")


def _missing_package(name: str, error: ImportError, install: str | None) -> InputError:
    missing = install or (error.name or "").partition(".")[0]
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    if not missing:
        return InputError(f"{name} cannot be imported: {_line(cause)}")
    quoted = f"'{missing}'" if "[" in missing else missing
    return InputError(f"{name} needs a package that is not installed: pip install {quoted} ({_line(cause)})")


def _known_names(package: str | None = None) -> list[str]:
    """Names that a user may have meant."""
    names: list[str] = []
    for top in {"mpe2", package} - {None}:
        assert top is not None
        spec = importlib.util.find_spec(top)
        for folder in spec.submodule_search_locations or () if spec is not None else ():
            names += [f"{top}.{module.name}" for module in pkgutil.iter_modules([folder])]
    from pettingzoo import aec_registry, parallel_registry

    return sorted(
        {name for name in names if not name.rpartition(".")[2].startswith("_")} | {*aec_registry, *parallel_registry}
    )


def _nearest(word: str, known: Iterable[str], prefix: str = "") -> str:
    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {prefix}{matches[0]}?" if matches else ""


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
