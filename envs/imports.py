"""Imports of the modules that users name, and what goes wrong in them and their environments in one clear line."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import pkgutil
import sysconfig
import traceback
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Final

from marl.envs.suites import SUITES
from marl.errors import InputError, nearest

_PIP_NAMES: Final = {
    "Box2D": "box2d",
    "PIL": "pillow",
    "ale_py": "ale-py",
    "cv2": "opencv-python",
    "gymnasium_robotics": "gymnasium-robotics",
    "multi_agent_ale_py": "multi-agent-ale-py",
    "pyspiel": "open-spiel",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
"""Packages that pip knows by another name than Python."""


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
    if not all(module.split(".")) or "\0" in module:
        raise InputError(f"{env!r} is no name of an environment{nearest_environment(env)}")
    module = locate(module)
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        top = module.partition(".")[0]
        inside = _is_within(module, error.name)
        if inside and importlib.util.find_spec(top) is not None:
            # The package is there, the module in it is not: it may be a module by another name.
            if (found := _attribute(env, module)) is not None:
                return found
            raise InputError(f"there is no environment {env!r}{nearest_environment(env, top)}") from error
        if inside and install is None and all(top not in suite.packages for suite in SUITES):
            known = f": pip install {pip_name(top)}" if pip_name(top) != top else ""
            raise InputError(
                f"there is no environment {env!r}{nearest_environment(env)}, and no package {top!r} is installed{known}"
            ) from error
        raise missing_package(env, error, install) from error
    except ImportError as error:
        raise missing_package(env, error, install) from error
    except (Exception, SystemExit) as error:
        raise broken(env, "imported", error) from error


def _attribute(env: str, module: str) -> ModuleType | None:
    """The module that a package holds under a name of its own, such as ``gymnasium_robotics.mamujoco_v1``.

    Raises:
        InputError: the package holds something else by that name, which is named in another way.
    """
    package, _, name = module.rpartition(".")
    if not package:
        return None
    try:
        value = getattr(importlib.import_module(package), name, None)
    except ImportError:
        return None
    if isinstance(value, ModuleType):
        return value
    if callable(value):
        raise InputError(f"there is no environment {env!r}; did you mean '{package}:{name}'?")
    return None


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


def pip_name(package: str) -> str:
    """The name by which pip installs a package that is imported as ``package``."""
    return _PIP_NAMES.get(package, package)


def missing_package(env: str, error: ImportError, install: str | None) -> InputError:
    """The error that names the package that an environment needs, and the command that installs it.

    Args:
        env: the environment's name.
        error: the import that failed.
        install: arguments of ``pip install``; by default the missing package's own name.
    """
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    if isinstance(error, ModuleNotFoundError) or isinstance(cause, ModuleNotFoundError) or error.name is None:
        missing = install or pip_name((error.name or "").partition(".")[0])
        if missing:
            quoted = f"'{missing}'" if "[" in missing else missing
            return InputError(f"{env} needs a package that is not installed: pip install {quoted} ({one_line(cause)})")
    return broken(env, "imported", error)


def broken(env: str, what: str, error: BaseException) -> InputError:
    """The error that shows an exception of an environment's own code.

    Args:
        env: the environment's name.
        what: what it could not be: imported, made, …
        error: of the environment's code.
    """
    return InputError(f"{env} cannot be {what}: {one_line(error)}{place_of(error)}{_mend(error)}")


def place_of(error: BaseException) -> str:
    """`` (FILE, line N)`` of the user's own line that raised it, or of the last line of all; empty if unknown."""
    if isinstance(error, SyntaxError) and error.filename is not None:
        return ""  # its text says so
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<")]
    ours = Path(__file__).resolve().parent
    installed = tuple(sysconfig.get_paths()[key] for key in ("stdlib", "purelib", "platlib"))
    theirs = [frame for frame in frames if ours not in Path(frame.filename).resolve().parents]
    own = [frame for frame in theirs if not frame.filename.startswith(installed)]
    for frame in (own or theirs)[-1:]:
        return f" ({frame.filename}, line {frame.lineno})"
    return ""


def _mend(error: BaseException) -> str:
    """The way out of errors that are known, to be put behind the message."""
    text = str(error)
    if isinstance(error, TypeError) and "'module' object is not callable" in text:
        for frame, _ in traceback.walk_tb(error.__traceback__):
            selector = frame.f_globals.get("agent_selector")
            if isinstance(selector, ModuleType) and selector.__name__ == "pettingzoo.utils.agent_selector":
                return (
                    "; it was written for an older PettingZoo, where agent_selector was a class: there, write "
                    "'from pettingzoo.utils import AgentSelector as agent_selector', or use the package's newest one"
                )
    if isinstance(error, TypeError) and "required" in text and "argument" in text:
        return "; give arguments with --env-kwargs, as a JSON object"
    if isinstance(error, OSError) and text.startswith("rom ") and "is not installed" in text:
        return f"; {_roms()}"
    return ""


def _roms() -> str:
    """The way to Atari's games, which the package ale-py brings along."""
    found = importlib.util.find_spec("ale_py")
    folders = [] if found is None else list(found.submodule_search_locations or ())
    arguments = json.dumps({"auto_rom_install_path": folders[0] if folders else "FOLDER/ale_py"})
    return f"the games come with another package: pip install ale-py, and --env-kwargs '{arguments}'"
