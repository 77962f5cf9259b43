"""Checks for ``marl doctor ENV``: PettingZoo's own tests and our conformance checks, reported in plain words."""

from __future__ import annotations

import contextlib
import io
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from marl.acting.random_actions import RandomActions
from marl.core import EnvironmentFactory, EnvironmentRequest, VectorEnvironment
from marl.envs.borders.lookalikes import recognized
from marl.envs.borders.membership import find_strays
from marl.envs.borders.process_state import ProcessState, reseeded
from marl.envs.factory import make_constructor, vectorize
from marl.envs.pettingzoo.rows import ApiError
from marl.envs.pettingzoo.vector import PettingZooVectorEnvironment
from marl.envs.preprocessing import Preprocessing, preprocessed
from marl.errors import InputError
from marl.testing import environment_checks as testing

_NO_PREPROCESSING = Preprocessing()
_FEWEST = 5
"""Checks of fewer steps say nothing."""


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
    seconds: float = 60.0,
) -> list[Finding]:
    """Examines an environment by name.

    Args:
        name: as in ``marl.envs.factory.make_factory``.
        env_kwargs: arguments for the environment.
        preprocessing: of image observations.
        steps: how many steps each check takes.
        seconds: about how long all of it may take; slow environments are checked by fewer steps, or by fewer checks,
            and a finding says so.

    Returns:
        Findings in a fixed order; environments that cannot be made at all give one. A fault that breaks several
        checks is told once.
    """
    try:
        make = preprocessed(make_constructor(name, env_kwargs), preprocessing)
    except InputError as error:
        return [Finding(rule="the environment can be made", ok=False, message=str(error))]
    return examine_callable(make, steps=steps, seconds=seconds)


def examine_callable(make: Callable[[], Any], *, steps: int = 60, seconds: float = 60.0) -> list[Finding]:
    """Examines the PettingZoo environments that a callable returns; see ``examine``."""
    make = recognized(make)
    pace = Pace(steps, seconds)
    try:
        with ProcessState():
            environment = make()
    except Exception as error:
        return [Finding(rule="the environment can be made", ok=False, message=_line(error))]
    findings = [
        Finding(rule="the environment can be made", ok=True, message=f"{type(environment).__name__} {environment}")
    ]
    factory = vectorize(make)
    try:
        with pace.timed_construction():
            described = factory(EnvironmentRequest(num_envs=1))
        spec = described.spec
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
    pace.time_steps(described)
    findings.append(_settings(described, make))
    turns = sum(group.size for group in spec.groups) if spec.turn_based else 1
    if count := pace.steps_for(_MEMBERSHIP, 1, turns, left=3 + len(_CHECKS)):
        findings += _membership(make, count)
    for rule, test, copies in (
        ("it passes PettingZoo's API test", _api_test, 1),
        ("it passes PettingZoo's seed test", _seed_test, 2),
    ):
        if count := pace.steps_for(rule, copies, copies * turns, left=2 + len(_CHECKS)):
            findings += _pettingzoo_test(rule, test, make, turn_based=spec.turn_based, steps=count)
    for index, check in enumerate(_CHECKS):
        least = 5 if check.fatal else 0
        count = pace.steps_for(check.rule, check.copies, check.effort, left=len(_CHECKS) - index, least=least)
        if not count:
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                check.run(factory, count)
        except Exception as error:
            findings.append(_failure(check.rule, error, fatal=check.fatal))
        else:
            findings.append(Finding(rule=check.rule, ok=True, message=f"{count} steps of random actions"))
    return [*_told_once(findings), *pace.omissions()]


def _told_once(findings: list[Finding]) -> list[Finding]:
    """The findings without those that show once more what broke a check before."""
    told: set[tuple[str, str | None]] = set()
    kept: list[Finding] = []
    for finding in findings:
        fault = (finding.rule, finding.agent)
        broken = finding.fatal and not finding.ok
        if finding not in kept and not (broken and fault in told):
            kept.append(finding)
        if broken:
            told.add(fault)
    return kept


def _settings(environment: VectorEnvironment, make: Callable[[], Any]) -> Finding:
    """Says which settings of the whole process an environment changes."""
    assert isinstance(environment, PettingZooVectorEnvironment)
    changed = [*environment.changed_settings, *reseeded(make)]
    environment.close()
    return Finding(
        rule="it leaves the process's settings alone",
        ok=not changed,
        message=f"it changes {', '.join(changed)}; marl keeps its own" if changed else "none was changed",
        fatal=False,
    )


_MEMBERSHIP = "observations belong to their spaces"


def _membership(make: Callable[[], Any], steps: int) -> list[Finding]:
    """Holds observations against their spaces."""
    strays = find_strays(make, steps=steps)
    return [
        Finding(
            rule=_MEMBERSHIP,
            ok=False,
            message=f"{stray.agent}: {stray.message}",
            agent=stray.agent,
            fatal=not stray.readable,
        )
        for stray in strays
    ] or [Finding(rule=_MEMBERSHIP, ok=True, message=f"{steps} steps of random actions")]


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


class Pace:
    """Numbers of steps of checks that together take no longer than they may.

    Args:
        steps: of a check, where there is time.
        seconds: of all checks.
    """

    def __init__(self, steps: int, seconds: float) -> None:
        self._steps = steps
        self._seconds = seconds
        self._end = time.monotonic() + seconds
        self._of_making = 0.0
        self._of_a_step = 0.0
        self._short: list[str] = []

    @contextlib.contextmanager
    def timed_construction(self) -> Iterator[None]:
        """Times the making of two environments, of which one plays a little."""
        begun = time.monotonic()
        yield
        self._of_making = (time.monotonic() - begun) / 2

    def time_steps(self, environment: VectorEnvironment) -> None:
        """Times some steps of one copy; an environment that fails at once needs no time."""
        choose = RandomActions(environment.spec, num_envs=1)
        count, begun = 0, time.monotonic()
        with contextlib.suppress(Exception), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            timestep = environment.reset()
            while count < self._steps and time.monotonic() - begun < self._seconds / 20:
                timestep = environment.step(choose(timestep))
                count += 1
        self._of_a_step = (time.monotonic() - begun) / max(1, count)

    def steps_for(self, rule: str, copies: int, effort: int, *, left: int, least: int = 0) -> int:
        """Number of steps for the next check; 0 to leave it out.

        Args:
            rule: what is checked, for the report.
            copies: environments that it makes.
            effort: steps of one environment that it takes for each of its own.
            left: number of checks that share the time that is left.
            least: fewest steps, however long they take.
        """
        share = (self._end - time.monotonic()) / left - copies * self._of_making
        count = min(self._steps, int(share / (effort * self._of_a_step + 1e-9)))
        count = max(least, count if count >= min(_FEWEST, self._steps) else 0)
        if count < self._steps:
            self._short.append(f"{rule} ({f'{count} steps' if count else 'left out'})")
        return count

    def omissions(self) -> list[Finding]:
        """Says what was checked by fewer steps, or not at all."""
        if not self._short:
            return []
        message = (
            f"a step takes {self._of_a_step:.2g} s and making one {self._of_making:.2g} s, so that within "
            f"{self._seconds:g} s some was cut short: {'; '.join(self._short)}; --seconds gives more time"
        )
        return [Finding(rule="there was time for all checks", ok=False, message=message, fatal=False)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Check:
    rule: str
    run: Callable[[EnvironmentFactory, int], None]
    copies: int
    """Environments that it makes."""
    effort: int
    """Steps of one environment that it takes for each of its own."""
    fatal: bool = False


_CHECKS = (
    _Check(rule="its steps are what marl promises", run=testing.check_timesteps, copies=4, effort=3, fatal=True),
    _Check(rule="equal seeds and actions give equal steps", run=testing.check_determinism, copies=6, effort=4),
    _Check(rule="a copy does not depend on the copies beside it", run=testing.check_independence, copies=11, effort=8),
    _Check(rule="a reset with a seed forgets the episode before", run=_check_forgetting, copies=6, effort=22),
    _Check(
        rule="it can be resumed exactly in the middle of an episode", run=testing.check_resume, copies=11, effort=10
    ),
)


def _pettingzoo_test(
    rule: str, test: Callable[..., None], make: Callable[[], Any], *, turn_based: bool, steps: int
) -> list[Finding]:
    with warnings.catch_warnings(record=True) as caught, contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("always")
        try:
            with ProcessState():
                test(make, turn_based, steps)
        except Exception as error:
            return [_failure(rule, error, fatal=False)]
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
        # Nobody trains on what breaks a rule, whichever check came upon it.
        return Finding(rule=error.rule, ok=False, message=error.finding, agent=error.agent)
    if isinstance(error, testing.ConformanceError) and error.rule == rule:
        return Finding(rule=rule, ok=False, message=error.detail, fatal=fatal)
    return Finding(rule=rule, ok=False, message=_line(error), fatal=fatal)


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, (InputError, testing.ConformanceError)):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
