"""Runs read back from disk: their environment, and the policies of a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from marl.acting.actors import PolicyActor
from marl.algorithms.nfsp import NFSP, NFSPConfig
from marl.builders import Builder
from marl.checkpoints.checkpoint import load_checkpoint
from marl.core import EnvironmentFactory, EnvironmentRequest, VectorEnvironment
from marl.envs.pettingzoo.rows import Seat
from marl.envs.pettingzoo.vector import PettingZooVectorEnvironment
from marl.errors import InputError
from marl.games.sides import read_teams
from marl.launchers.run.catalog import find_algorithm, from_saved
from marl.launchers.run.run_directory import RunDirectory
from marl.launchers.run.settings import Backend, Settings, environment_of, from_json, read_env_kwargs
from marl.policy import Policy
from marl.specs import EnvironmentSpec
from marl.states import unflatten_state


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedRun:
    """A run's policies, with the environment and the settings that they were trained with."""

    path: Path
    algorithm: str
    env: str
    settings: Settings[Any]
    environment: EnvironmentFactory
    spec: EnvironmentSpec
    policies: Mapping[str, Policy]
    """One a group."""
    env_steps: int
    """Environment steps of the checkpoint that they come from."""
    seats: tuple[Seat, ...]
    """Readers and writers of each agent's values."""
    checkpoint: Path | None = None
    """The checkpoint that they come from."""
    teams: Mapping[str, str] | None = None
    """The team of each agent, where the run is a league that was told; see ``Sides``."""

    def actor(self, *, num_envs: int = 1, seed: int = 0, purpose: str = "play") -> PolicyActor:
        """Makes an actor for that many environments."""
        sizes = {group.name: group.size for group in self.spec.groups}
        return PolicyActor(self.policies, sizes, num_envs=num_envs, seed=seed, purpose=purpose)


def saved_parts(
    config: Mapping[str, Any], settings: Settings[Any]
) -> tuple[Builder[Any], EnvironmentFactory, VectorEnvironment]:
    """Makes the builder and the environment of a run of ``marl train`` or ``marl league``.

    Args:
        config: the run's ``config.json``.
        settings: the run's, or with another environment than in training.

    Returns:
        The builder, the environment's factory, and one environment, closed, to be asked for its spec.

    Raises:
        InputError: the run does not fit this version, or there is no such environment.
    """
    builder = find_algorithm(str(config["name"])).build(settings.algorithm)
    league = config.get("league", {})
    if league.get("matchmaking") == "nfsp":
        builder = NFSP(best_response=builder, config=from_saved(NFSPConfig(), league["nfsp"]))
    environment = environment_of(str(config["env"]), settings)
    probe = environment(
        EnvironmentRequest(num_envs=1, purpose="probe", sharing=builder.sharing, with_state=builder.with_state)
    )
    probe.close()
    return builder, environment, probe


def load_run(
    path: Path | str, *, env_kwargs: str | None = None, backend: Backend = "pettingzoo", sampled: bool = False
) -> TrainedRun:
    """Loads the newest intact checkpoint of a run, or the one whose own folder is named.

    Args:
        path: a run directory, or one of the checkpoints in it.
        env_kwargs: arguments for the environment other than the run's, as a JSON object.
        backend: on which the environment is made; the unmodified PettingZoo one by default.
        sampled: policies draw their actions as in training instead of taking the best; those of Q-learners, whose
            exploration follows the progress of their training, stay greedy.

    Raises:
        InputError: no such run, nothing saved yet, or a checkpoint that does not fit its configuration.
    """
    path = Path(path)
    checkpoint_path = path / "checkpoints"
    if (path / "manifest.json").exists():
        checkpoint_path, path = path, path.parent.parent
    run = RunDirectory.open(path)
    settings = replace(from_json(run.config), backend=backend)
    if env_kwargs is not None:
        settings = replace(settings, env_kwargs=env_kwargs)
    builder, environment, probe = saved_parts(run.config, settings)
    checkpoint = load_checkpoint(checkpoint_path)
    networks = builder.make_networks(probe.spec)
    try:
        builder.load_policies(networks, unflatten_state(checkpoint.tensors)["learner"])
    except (KeyError, ValueError, RuntimeError) as error:
        # Torch explains itself on many lines.
        reason = f"it has no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        if env_kwargs is not None and read_env_kwargs(env_kwargs) != run.config.get("env_kwargs"):
            known = json.dumps(run.config.get("env_kwargs"))
            raise InputError(
                f"{checkpoint.path} does not fit the environment with {env_kwargs}: it was trained with {known}, and "
                "the sizes of its networks are others"
            ) from error
        raise InputError(f"{checkpoint.path} does not fit {path / 'config.json'}: {reason[:300]}") from error
    return TrainedRun(
        path=path,
        algorithm=str(run.config["name"]),
        env=str(run.config["env"]),
        settings=settings,
        environment=environment,
        spec=probe.spec,
        policies=builder.frozen_policies(probe.spec, networks, greedy=not sampled),
        env_steps=checkpoint.step,
        seats=probe.seats if isinstance(probe, PettingZooVectorEnvironment) else (),
        checkpoint=checkpoint.path,
        teams=read_teams(run.config.get("league", {}).get("teams")),
    )
