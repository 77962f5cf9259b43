"""Settings of a training run, as ``config.json`` holds them and recipes change them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Generic, Literal, TypeVar

import torch

from marl.builders import Builder
from marl.core import EnvironmentFactory
from marl.envs.factory import make_factory
from marl.envs.preprocessing import Preprocessing
from marl.errors import InputError
from marl.experiments.config import ExperimentConfig, Schedule
from marl.launchers.command_line.options import ObjectText
from marl.launchers.console import require_not_negative, require_positive
from marl.launchers.run.catalog import find_algorithm, from_saved
from marl.launchers.run.choices import Backend
from marl.learning.compilation import can_compile

ConfigT = TypeVar("ConfigT")
_COMPILE_FROM_STEPS = 500_000
"""Environment steps from which on compiling, twenty seconds the first time, is repaid."""


@dataclass(frozen=True, kw_only=True)
class Settings(Schedule, Generic[ConfigT]):
    """All settings that decide the result of a run, except the names of its algorithm and environment."""

    algorithm: ConfigT
    """Settings of the algorithm."""
    seed: int = 0
    """Seed of all random numbers."""
    num_envs: int = 128
    """Environments, over all ranks."""
    env_kwargs: ObjectText = "{}"
    """Arguments of the environment."""
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    """Preprocessing of observations."""
    backend: Backend = "pettingzoo"
    """The unmodified environment, or its equal on tensors if there is one."""
    device: str = "cpu"
    """Device of networks, learners, trajectories and batched environments: cpu, cuda (a GPU for each rank in turn), or
    cuda:0 and so on."""
    compile: Literal["auto", "yes", "no"] = "auto"
    """Whether algorithms compute through torch's compiler; auto: in long runs, where there is a C++ compiler."""
    env_failures: int = 10
    """Episodes in a row that an environment may lose because it raised; 0 to end at the first exception."""
    exploitability_every: int | None = None
    """Environment steps between measurements of the policies' exploitability, which is measured at the end too; for
    OpenSpiel's games of hidden cards."""
    checkpoint_every: int | None = 200_000
    checkpoint_minutes: float | None = 10.0
    row_every: int = 2000


def to_json(algorithm: str, env: str, settings: Settings[Any], recipe: str | None) -> dict[str, Any]:
    """Returns the content of ``config.json``."""
    config: dict[str, Any] = json.loads(json.dumps(asdict(settings)))
    config["env_kwargs"] = read_env_kwargs(settings.env_kwargs)
    return {"name": algorithm, "env": env, "recipe": recipe, **config}


def from_json(config: Mapping[str, Any]) -> Settings[Any]:
    """Returns settings as ``to_json`` wrote them, on the CPU: there may be no GPU where a run is read.

    Raises:
        InputError: they do not fit this version.
    """
    try:
        values = dict(config)
        variant = find_algorithm(values.pop("name"))
        for name in ("env", "recipe", "run_id", "league"):
            values.pop(name, None)
        values["algorithm"] = variant.config_from(values["algorithm"])
        values["env_kwargs"] = json.dumps(values["env_kwargs"])
        values["device"] = "cpu"
        values["preprocessing"] = from_saved(Preprocessing(), values["preprocessing"])
        return Settings(**values)
    except (KeyError, TypeError) as error:
        raise InputError(f"config.json does not fit this version of marl: {error}") from error


def read_env_kwargs(text: str) -> dict[str, Any]:
    """Returns the environment's arguments; raises InputError if the text is no JSON object."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise InputError(f"--env-kwargs is not JSON ({error}); for instance '{{\"N\": 5}}'") from error
    if not isinstance(value, dict):
        raise InputError(f"--env-kwargs must be a JSON object, not {text}; for instance '{{\"N\": 5}}'")
    return value


def environment_of(env: str, settings: Settings[Any]) -> EnvironmentFactory:
    """Returns the factory of the environment, with these settings; raises InputError if there is none."""
    return make_factory(
        env,
        env_kwargs=read_env_kwargs(settings.env_kwargs),
        preprocessing=settings.preprocessing,
        backend=settings.backend,
        device=settings.device,
        max_failures=settings.env_failures,
    )


def make_experiment_config(algorithm: str, env: str, settings: Settings[Any]) -> ExperimentConfig:
    """Returns the experiment that the settings describe; raises InputError if they make no sense."""
    settings.check_schedule()
    require_positive(num_envs=settings.num_envs, exploitability_every=settings.exploitability_every)
    require_not_negative(seed=settings.seed, env_failures=settings.env_failures)
    measure = None
    if settings.exploitability_every is not None:
        from marl.envs.openspiel.exploitability import exploitability_measure

        measure = exploitability_measure(env, read_env_kwargs(settings.env_kwargs), settings.device)
    return ExperimentConfig(
        builder=_through_compiler(find_algorithm(algorithm).build(settings.algorithm), algorithm, settings),
        environment=environment_of(env, settings),
        seed=settings.seed,
        num_envs=settings.num_envs,
        measure=measure,
        measure_every=settings.exploitability_every,
        device=torch.device(settings.device),
        **{entry.name: getattr(settings, entry.name) for entry in fields(Schedule)},
    )


def resolve_compile(algorithm: str, settings: Settings[Any], before: str | None = None) -> Settings[Any]:
    """Returns settings in which ``compile`` is yes or no.

    Args:
        algorithm: its name.
        settings: of the run.
        before: the value in the run that is resumed, which is kept, since compiled numbers are rounded otherwise.
    """
    if settings.compile != "auto":
        return settings
    if before not in ("yes", "no"):
        long = settings.steps >= _COMPILE_FROM_STEPS and settings.device == "cpu" and can_compile(torch.device("cpu"))
        able = long and find_algorithm(algorithm).build(settings.algorithm).compiled() is not None
        before = "yes" if able else "no"
    return with_changes(settings, compile=before)


def _through_compiler(builder: Builder[Any], algorithm: str, settings: Settings[Any]) -> Builder[Any]:
    if settings.compile != "yes":
        return builder
    if settings.device != "cpu":
        raise InputError("--compile yes was not tried on a GPU yet; leave it out")
    if not can_compile(torch.device("cpu")):
        raise InputError("no C++ compiler was found (g++ or clang++); leave out --compile yes")
    compiled = builder.compiled()
    if compiled is None:
        raise InputError(f"{algorithm} is not written for torch's compiler with these settings; leave out --compile")
    return compiled


def with_changes(
    settings: Settings[ConfigT], *, algorithm: Mapping[str, Any] | None = None, **others: Any
) -> Settings[Any]:
    """Returns a copy with some settings changed, those of the algorithm among them."""
    return replace(settings, algorithm=replace(settings.algorithm, **(algorithm or {})), **others)  # type: ignore[type-var]
