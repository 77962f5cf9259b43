"""Settings of the whole process that environments change: theirs while they run, marl's at all other times."""

from __future__ import annotations

import random
from collections.abc import Callable
from types import TracebackType
from typing import Any

import numpy as np
import torch

_EVERY = 64
"""Slow settings are looked at in so many first calls, and in one of so many later."""


def _read_fast() -> tuple[Any, ...]:
    return torch.is_grad_enabled(), torch.get_default_dtype()


def _read_all() -> tuple[Any, ...]:
    return torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads(), np.geterr()


_WRITE: tuple[Callable[[Any], Any], ...] = (
    torch.set_grad_enabled,
    torch.set_default_dtype,
    torch.set_num_threads,
    lambda settings: np.seterr(**settings),
)
NAMES = ("torch's grad mode", "torch's default dtype", "torch's number of threads", "numpy's handling of errors")


class ProcessState:
    """Keeps apart the settings of an environment and those of everybody else.

    Within ``with`` the environment's settings hold, as it left them; afterwards those from before. Settings are torch's
    grad mode, default dtype and number of threads, and numpy's handling of floating-point errors. Global generators
    of random numbers are the environment's alone: marl draws from generators of its own.
    """

    __slots__ = ("_before", "_calls", "_read", "_theirs")

    def __init__(self) -> None:
        self._calls = 0
        self._read = _read_all
        self._before: tuple[Any, ...] = ()
        self._theirs: dict[int, Any] = {}
        """The environment's settings that differ from those around it, by their index in ``NAMES``."""

    def __enter__(self) -> ProcessState:
        self._calls += 1
        self._read = _read_all if self._calls <= _EVERY or self._calls % _EVERY == 0 or self._theirs else _read_fast
        self._before = self._read()
        for index, value in self._theirs.items():
            _WRITE[index](value)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        after = self._read()
        if after == self._before:
            return
        for index, (was, now) in enumerate(zip(self._before, after, strict=True)):
            if was != now:
                self._theirs[index] = now
                _WRITE[index](was)
            else:
                self._theirs.pop(index, None)

    @property
    def changed(self) -> tuple[str, ...]:
        """Names of the settings that the environment wants otherwise."""
        return tuple(NAMES[index] for index in sorted(self._theirs))


def reseeded(make: Callable[[], Any]) -> list[str]:
    """Names of the global generators of random numbers that a reset of an environment seeds."""
    kept = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    drawn: list[tuple[float, ...]] = []
    try:
        for seed in (1, 2):
            random.seed(seed)
            np.random.seed(seed)  # noqa: NPY002
            torch.manual_seed(seed)
            with ProcessState():
                environment = make()
                environment.reset(seed=0)
                environment.close()
            drawn.append((random.random(), np.random.random(), torch.rand(()).item()))  # noqa: NPY002
    except Exception:  # whatever it raises is told by the checks
        return []
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])  # noqa: NPY002
        torch.set_rng_state(kept[2])
    names = ("random's generator", "numpy's global generator", "torch's generator")
    return [name for name, one, other in zip(names, *drawn, strict=True) if one == other]
