"""Checks for ``marl doctor ENV``: PettingZoo's own tests and our conformance checks, reported in plain words."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from marl.acting.random_actions import RandomActions
from marl.core import EnvironmentFactory, EnvironmentRequest
from marl.envs.factory import make_constructor, vectorize
from marl.envs.membership import find_strays
from marl.envs.pettingzoo.rows import ApiError
from marl.envs.pettingzoo.vector import PettingZooVectorEnvironment
from marl.envs.preprocessing import Preprocessing, preprocessed
from marl.errors import InputError
from marl.testing import environment_checks as testing

_NO_PREPROCESSING = Preprocessing()


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One rule, and whether the environment keeps it."""

    rule: str
    ok: bool
    message: str
    """The finding in one line."""
    agent: str | None = None
    """The agent that breaks it, where that is known."""
    fatal: bool = True
    """Whether training is impossible without it; the others are worth knowing."""


def examine(
    name: str,
    *,
    env_kwargs: Mapping[str, Any] | None = None,
    preprocessing: Preprocessing = _NO_PREPROCESSING,
    steps: int = 60,
) -> list[Finding]:
    """Examines an environment by name.

    Args:
        name: as in ``marl.envs.factory.make_factory``.
        env_kwargs: arguments for the environment.
        preprocessing: of image observations.
        steps: how many steps each check takes.

    Returns:
        Findings in a fixed order; environments that cannot be made at all give one.
    """
    try:
        make = preprocessed(make_constructor(name, env_kwargs), preprocessing)
    except InputError as error:
        return [Finding(rule="the environment can be made", ok=False, message=str(error))]
    return examine_callable(make, steps=steps)


def examine_callable(make: Callable[[], Any], *, steps: int = 60) -> list[Finding]:
    """Examines the PettingZoo environments that a callable returns; see ``examine``."""
    try:
        environment = make()
    except Exception as error:
        return [Finding(rule="the environment can be made", ok=False, message=_line(error))]
    findings = [
        Finding(rule="the environment can be made", ok=True, message=f"{type(environment).__name__} {environment}")
    ]
    factory = vectorize(make)
    try:
        spec = factory(EnvironmentRequest(num_envs=1)).spec
    except Exception as error:
        return [*findings, _failure("its spaces can be described", error)]
    groups = "; ".join(
        f"{group.name}: {group.size} × {group.observation.shape} → {group.action}{' masked' if group.masked else ''}"
        for group in spec.groups
    )
    findings.append(Finding(rule="its spaces can be described", ok=True, message=groups))
    state = "none" if spec.state is None else f"{spec.state.shape}"
    kind = "turn-based" if spec.turn_based else "all agents act at once"
    findings.append(Finding(rule="it has a state", ok=True, message=f"{kind}; state {state}"))
    findings += _membership(make, steps)
    for rule, test, fatal in (
        ("it passes PettingZoo's API test", _api_test, False),
        ("it passes PettingZoo's seed test", _seed_test, False),
    ):
        findings += _pettingzoo_test(rule, test, make, turn_based=spec.turn_based, steps=steps, fatal=fatal)
    for rule, check, fatal in _CHECKS:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                check(factory, steps)
        except Exception as error:
            findings.append(_failure(rule, error, fatal=fatal))
        else:
            findings.append(Finding(rule=rule, ok=True, message=f"{steps} steps of random actions"))
    return findings


def _membership(make: Callable[[], Any], steps: int) -> list[Finding]:
    """Holds observations against their spaces."""
    rule = "observations belong to their spaces"
    strays = find_strays(make, steps=steps)
    return [
        Finding(
            rule=rule, ok=False, message=f"{stray.agent}: {stray.message}", agent=stray.agent, fatal=not stray.readable
        )
        for stray in strays
    ] or [Finding(rule=rule, ok=True, message=f"{steps} steps of random actions")]


def _check_forgetting(factory: EnvironmentFactory, steps: int) -> None:
    """Plays into a second episode and has a fresh environment play that episode alone."""
    request = EnvironmentRequest(num_envs=2)
    played, fresh = factory(request), factory(request)
    try:
        choose = RandomActions(played.spec, num_envs=2)
        timestep = played.reset()
        later = -1
        for _ in range(10 * steps):
            timestep = played.step(choose(timestep))
            if timestep.final is not None and later < 0:
                later = 5
            later -= later > 0
            if later == 0:
                break
        fresh.load_env_state_dict(played.env_state_dict())
        assert isinstance(fresh, PettingZooVectorEnvironment)
        if fresh.not_reproduced:
            raise testing.ConformanceError(
                "a reset with a seed forgets the episode before",
                "an episode went otherwise in a fresh environment; resumed runs begin such episodes anew",
            )
    finally:
        played.close()
        fresh.close()


_CHECKS: tuple[tuple[str, Callable[[EnvironmentFactory, int], None], bool], ...] = (
    ("its steps are what marl promises", testing.check_timesteps, True),
    ("equal seeds and actions give equal steps", testing.check_determinism, False),
    ("a copy does not depend on the copies beside it", testing.check_independence, False),
    ("a reset with a seed forgets the episode before", _check_forgetting, False),
    ("it can be resumed exactly in the middle of an episode", testing.check_resume, False),
)


def _pettingzoo_test(
    rule: str, test: Callable[..., None], make: Callable[[], Any], *, turn_based: bool, steps: int, fatal: bool
) -> list[Finding]:
    with warnings.catch_warnings(record=True) as caught, contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("always")
        try:
            test(make, turn_based, steps)
        except Exception as error:
            return [_failure(rule, error, fatal=fatal)]
    texts = dict.fromkeys(
        " ".join(str(warning.message).split())
        for warning in caught
        if not issubclass(warning.category, (DeprecationWarning, ImportWarning))
    )
    warned = [Finding(rule="PettingZoo's API test warns", ok=False, message=text, fatal=False) for text in texts]
    return [Finding(rule=rule, ok=True, message=f"{steps} cycles"), *warned]


def _api_test(make: Callable[[], Any], turn_based: bool, steps: int) -> None:
    # PettingZoo's tests are imported where they are used: they load its example environments.
    from pettingzoo.test import api_test, parallel_api_test

    (api_test if turn_based else parallel_api_test)(make(), num_cycles=steps)


def _seed_test(make: Callable[[], Any], turn_based: bool, steps: int) -> None:
    from pettingzoo.test import parallel_seed_test, seed_test

    (seed_test if turn_based else parallel_seed_test)(make, num_cycles=steps)


def _failure(rule: str, error: Exception, *, fatal: bool = True) -> Finding:
    if isinstance(error, ApiError):
        return Finding(rule=error.rule, ok=False, message=str(error), agent=error.agent, fatal=fatal)
    return Finding(rule=rule, ok=False, message=_line(error), fatal=fatal)


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, (InputError, testing.ConformanceError)):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
