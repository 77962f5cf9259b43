"""Imports of the modules that users name, with one clear line where a module or a package is missing."""

from __future__ import annotations

import importlib
import importlib.util
import os
import pkgutil
from importlib.machinery import ModuleSpec
from types import ModuleType

from marl.envs.suites import SUITES
from marl.errors import InputError, nearest


def import_module(env: str, module: str, *, install: str | None = None) -> ModuleType:
    """Imports a module that an environment needs.

    Args:
        env: the environment's name, for the message.
        module: as the user or a suite names it; see ``locate``.
        install: arguments of ``pip install`` where it is missing; by default the missing package's own name.

    Raises:
        InputError: there is no such module (the nearest environment is suggested), or a package is missing (with the
            command that installs it).
    """
    module = locate(module)
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        top = module.partition(".")[0]
        inside = _is_within(module, error.name)
        if inside and importlib.util.find_spec(top) is not None:
            # The package is there, the module in it is not.
            raise InputError(f"there is no environment {env!r}{nearest_environment(env, top)}") from error
        if inside and install is None and all(top not in suite.packages for suite in SUITES):
            raise InputError(
                f"there is no environment {env!r}{nearest_environment(env)}, and no package {top!r} is installed"
            ) from error
        raise missing_package(env, error, install) from error
    except ImportError as error:
        raise missing_package(env, error, install) from error
    except (ValueError, TypeError) as error:
        raise InputError(f"{env!r} is no name of an environment{nearest_environment(env)}") from error


def locate(module: str) -> str:
    """The name to import a module by: a user's own ``envs`` comes before the one that is shipped as ``marl.envs``."""
    if module.partition(".")[0] != "envs":
        return module
    shipped = f"marl.{module}"
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError as error:
        # A package of the user's that lacks one of its own imports says so when it is imported.
        return shipped if _is_within(module, error.name) else module
    except (ImportError, ValueError):
        return module
    if found is None or found.origin is None:
        return shipped
    ours = _find_shipped(shipped)
    same = ours is not None and ours.origin is not None and os.path.samefile(found.origin, ours.origin)
    return shipped if same else module


def _find_shipped(module: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(module)
    except ModuleNotFoundError:
        return None


def _is_within(module: str, package: str | None) -> bool:
    """True if the package is the module itself, or holds it."""
    return package is not None and f"{module}.".startswith(f"{package}.")


def missing_package(env: str, error: ImportError, install: str | None) -> InputError:
    """The error that names the package that an environment needs, and the command that installs it."""
    missing = install or (error.name or "").partition(".")[0]
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    if not missing:
        return InputError(f"{env} cannot be imported: {one_line(cause)}")
    quoted = f"'{missing}'" if "[" in missing else missing
    return InputError(f"{env} needs a package that is not installed: pip install {quoted} ({one_line(cause)})")


def nearest_environment(env: str, package: str | None = None) -> str:
    """``; did you mean 'x'?`` with the nearest environment of the known suites, PettingZoo's and a package's."""
    from pettingzoo import aec_registry, parallel_registry

    known = {*aec_registry, *parallel_registry}
    for top in {package, *(suite.modules for suite in SUITES)} - {None}:
        assert top is not None
        spec = importlib.util.find_spec(top)
        for folder in spec.submodule_search_locations or () if spec is not None else ():
            names = (module.name for module in pkgutil.iter_modules([folder]))
            known |= {f"{top}.{name}" for name in names if not name.startswith("_")}
    return nearest(env, known, list_all=False)


def one_line(error: BaseException) -> str:
    """The error's type and text."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
