"""Environments by name, or by a callable of the user's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from marl.core import EnvironmentFactory, EnvironmentRequest, VectorEnvironment
from marl.envs.borders.lookalikes import recognize, recognized
from marl.envs.imports import broken, missing_package
from marl.envs.names import resolve
from marl.envs.on_device import on_device
from marl.envs.preprocessing import Preprocessing, preprocessed
from marl.envs.suites import OPENSPIEL, split_name
from marl.errors import InputError, nearest

Backend = Literal["pettingzoo", "batched"]
_NO_PREPROCESSING = Preprocessing()


def make_factory(
    name: str,
    *,
    env_kwargs: Mapping[str, Any] | None = None,
    preprocessing: Preprocessing = _NO_PREPROCESSING,
    backend: Backend = "pettingzoo",
    device: str = "cpu",
    max_failures: int = 0,
) -> EnvironmentFactory:
    """A factory of vector environments by name.

    Args:
        name: ``package.module`` with a ``parallel_env`` or ``env`` factory, a PettingZoo registry id (the parallel
            form where there is one), a name of another suite (see ``marl.envs.suites``), or
            ``package.module:callable``.
        env_kwargs: arguments for the environment.
        preprocessing: of image observations.
        backend: ``batched`` for environments that exist on tensors.
        device: where time steps are: a batched environment lives there, of others they are copied.
        max_failures: episodes in a row that a copy may lose to exceptions; see PettingZooVectorEnvironment.

    Raises:
        InputError: no such environment (the nearest name is suggested), a package that is missing (with the command
            that installs it), or arguments that the environment does not take (with those that it takes).
    """
    arguments = dict(env_kwargs or {})
    if backend == "batched":
        if not preprocessing.is_identity:
            raise InputError("the batched backend has no images, so there is nothing to preprocess")
        found = split_name(name)
        if found is not None and found[0] is OPENSPIEL:
            resolve(name)  # says which package is missing, or which game was meant
            from marl.envs.openspiel.batched import make_batched_game

            return make_batched_game(found[1], arguments, device=device)
        from marl.envs.mpe import make_batched

        return make_batched(name, arguments, device=device)
    if backend != "pettingzoo":
        raise InputError(f"backend is pettingzoo or batched, not {backend!r}")
    factory = vectorize(make_constructor(name, arguments), preprocessing=preprocessing, max_failures=max_failures)
    return on_device(factory, device)


def vectorize(
    make: Callable[[], Any], *, preprocessing: Preprocessing = _NO_PREPROCESSING, max_failures: int = 0
) -> EnvironmentFactory:
    """A factory of vector environments over a callable that returns a PettingZoo environment, Parallel or AEC."""
    make = preprocessed(recognized(make), preprocessing)

    def factory(request: EnvironmentRequest) -> VectorEnvironment:
        from marl.envs.pettingzoo.vector import PettingZooVectorEnvironment

        return PettingZooVectorEnvironment(make, request, max_failures=max_failures)

    return factory


def make_constructor(name: str, env_kwargs: Mapping[str, Any] | None = None) -> Callable[[], Any]:
    """A callable that makes one environment by name; see ``make_factory``."""
    arguments = dict(env_kwargs or {})
    source = resolve(name)
    accepted = source.accepted()
    if accepted is not None and (unknown := sorted(set(arguments) - set(accepted))):
        takes = f"it takes {', '.join(accepted)}" if accepted else "it takes none"
        raise InputError(
            f"{name} takes no argument {', '.join(unknown)}{nearest(unknown[0], accepted, list_all=False)}; {takes}"
        )

    def make() -> Any:
        try:
            return recognize(source.make(**arguments))
        except (InputError, MemoryError):
            raise
        except ImportError as error:
            raise missing_package(name, error, source.install) from error
        except Exception as error:
            raise broken(name, f"made with {arguments}" if arguments else "made", error) from error

    return make
