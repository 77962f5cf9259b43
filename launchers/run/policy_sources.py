"""Trained policies by the path of a run, a checkpoint or a league's snapshot."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from marl.errors import InputError
from marl.launchers.run.choices import ActionSelection
from marl.launchers.run.saved_league import SNAPSHOTS, SavedLeague, load_league
from marl.launchers.run.settings import Settings
from marl.launchers.run.trained_run import load_run
from marl.policy import Policy
from marl.specs import EnvironmentSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedPolicies:
    """Policies out of a run or a league."""

    env: str
    settings: Settings[Any]
    spec: EnvironmentSpec
    policies: Mapping[str, Policy]
    """One a group."""
    env_steps: int
    """Environment steps of training."""
    file: Path
    """The checkpoint or snapshot that was read, so that a resumed tournament has the same player."""
    digest: str
    """A hash of its content."""


def read_source(
    source: str,
    *,
    action_selection: ActionSelection = "greedy",
    env_kwargs: str | None = None,
    leagues: dict[Path, SavedLeague] | None = None,
) -> TrainedPolicies:
    """Reads policies of a run, of one of its checkpoints, or of a league's snapshot.

    Args:
        source: ``RUN``, ``RUN/checkpoints/N``, ``LEAGUE@NAME`` or ``LEAGUE/snapshots/FILE``.
        action_selection: greedy for their best action, or sampled as in training.
        env_kwargs: arguments of the environment other than the run's.
        leagues: those that were read before, so that each is read once; takes those that are read now.

    Raises:
        InputError: there is nothing like that, or it is damaged.
    """
    path = Path(source)
    if path.suffix == ".safetensors" or (not path.exists() and "@" in source):
        return _read_snapshot(source, action_selection, env_kwargs, leagues)
    run = load_run(path, env_kwargs=env_kwargs, sampled=action_selection == "sampled")
    assert run.checkpoint is not None
    digest = hashlib.sha256((run.checkpoint / "manifest.json").read_bytes()).hexdigest()
    return TrainedPolicies(
        env=run.env,
        settings=run.settings,
        spec=run.spec,
        policies=run.policies,
        env_steps=run.env_steps,
        file=run.checkpoint,
        digest=digest[:16],
    )


def _read_snapshot(
    source: str, action_selection: ActionSelection, env_kwargs: str | None, leagues: dict[Path, SavedLeague] | None
) -> TrainedPolicies:
    path = Path(source)
    folder, name = (path.parent.parent, "") if path.suffix == ".safetensors" else split_snapshot(source)
    if leagues is None:
        leagues = {}
    if folder not in leagues:
        leagues[folder] = load_league(folder)
    league = leagues[folder]
    if not name:
        found = [name for name, digest in league.digests.items() if digest == path.stem]
        if not found:
            raise InputError(f"the league in {folder} has no snapshot {path.name}")
        name = found[0]
    policies = league.policies(name, greedy=action_selection == "greedy")
    settings = league.settings
    if env_kwargs is not None:
        settings = replace(settings, env_kwargs=env_kwargs)
    digest = league.digests[name]
    return TrainedPolicies(
        env=league.env,
        settings=settings,
        spec=league.spec,
        policies=policies,
        env_steps=league.env_steps[name],
        file=folder / SNAPSHOTS / f"{digest}.safetensors",
        digest=digest[:16],
    )


def split_snapshot(source: str) -> tuple[Path, str]:
    """Splits ``RUN@SNAPSHOT``."""
    folder, _, name = source.rpartition("@")
    return Path(folder), name
