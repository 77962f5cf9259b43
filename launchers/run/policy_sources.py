"""Trained policies by the path of a run, a checkpoint, a league's snapshot or a league's mixture."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from marl.acting.modes import Mode
from marl.errors import InputError
from marl.launchers.run.choices import ActionSelection
from marl.launchers.run.saved_league import SNAPSHOTS, Mixture, SavedLeague, load_league
from marl.launchers.run.settings import Settings
from marl.launchers.run.trained_run import TrainedRun, load_run
from marl.policy import Policy
from marl.self_play.mixture import mix_policies
from marl.specs import EnvironmentSpec
from marl.types import Floats

MIXTURE: Final = "mixture"
"""The name, after ``LEAGUE@``, of the mixture of a league's snapshots."""


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
    file: Path | None
    """The checkpoint or snapshot that was read, so that a resumed tournament has the same player; None for a mixture,
    whose digest tells."""
    digest: str
    """A hash of its content."""
    teams: Mapping[str, str] | None = None
    """The team of each agent in the league that they come from; see ``Sides``."""
    mixture: Mixture | None = None
    """Which mixture of a league's snapshots they are."""
    members: Mapping[str, Mapping[str, Policy]] = field(default_factory=dict)
    """The policies of the mixture's snapshots, by name; those without a share are left out."""


def read_source(
    source: str,
    *,
    action_selection: ActionSelection = "greedy",
    env_kwargs: str | None = None,
    leagues: dict[Path, SavedLeague] | None = None,
) -> TrainedPolicies:
    """Reads policies of a run, of one of its checkpoints, of a league's snapshot, or the mixture of its snapshots.

    Args:
        source: ``RUN``, ``RUN/checkpoints/N``, ``LEAGUE@NAME``, ``LEAGUE/snapshots/FILE`` or ``LEAGUE@mixture``.
        action_selection: greedy for their best action, or sampled as in training.
        env_kwargs: arguments of the environment other than the run's.
        leagues: those that were read before, so that each is read once; takes those that are read now.

    Raises:
        InputError: there is nothing like that, or it is damaged.
    """
    path = Path(source)
    if _is_of_league(source):
        league, name = _open_league(source, {} if leagues is None else leagues)
        greedy = action_selection == "greedy"
        found = _read_mixture(league, greedy) if name == MIXTURE else _read_snapshot(league, name, greedy)
        return found if env_kwargs is None else replace(found, settings=replace(found.settings, env_kwargs=env_kwargs))
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
        teams=run.teams,
    )


def load_source(
    source: Path | str, *, action_selection: ActionSelection = "greedy", env_kwargs: str | None = None
) -> TrainedRun:
    """Loads what ``read_source`` reads together with its environment; see ``load_run``."""
    if not _is_of_league(str(source)):
        return load_run(source, env_kwargs=env_kwargs, sampled=action_selection == "sampled")
    leagues: dict[Path, SavedLeague] = {}

    def read(mode: Mode) -> TrainedPolicies:
        return read_source(str(source), action_selection=mode, env_kwargs=env_kwargs, leagues=leagues)

    found = read("greedy")
    run = load_run(next(iter(leagues)), env_kwargs=env_kwargs)
    modes: dict[Mode, Mapping[str, Policy]] = {mode: read(mode).policies for mode in run.modes}
    return replace(
        run,
        policies=modes[action_selection if action_selection in modes else "greedy"],
        modes=modes,
        env_steps=found.env_steps,
        checkpoint=found.file,
    )


def mix_sources(sources: Sequence[str], leagues: dict[Path, SavedLeague]) -> tuple[Mixture, Floats]:
    """The average of several sources: by their league's own mixture where they are snapshots of one, else alike.

    Args:
        sources: as ``read_source`` takes them.
        leagues: as in ``read_source``.

    Returns:
        The mixture, and the weight of each source, which sum to 1.

    Raises:
        InputError: there is no such snapshot.
    """
    found = [_open_league(source, leagues) for source in sources if _is_of_league(source)]
    names = [name for _, name in found]
    of_one_league = len(found) == len(sources) and len({league.path for league, _ in found}) == 1
    if not of_one_league or len(set(names)) < len(names) or MIXTURE in names:
        equal = np.full(len(sources), 1.0 / len(sources))
        return Mixture(shares={name: sources.count(name) / len(sources) for name in sources}, rule="equal"), equal
    mixture = found[0][0].mix(names)
    return mixture, np.array([mixture.shares[name] for name in names])


def _is_of_league(source: str) -> bool:
    """Returns whether it names a snapshot or the mixture of a league."""
    path = Path(source)
    return path.suffix == ".safetensors" or (not path.exists() and "@" in source)


def _open_league(source: str, leagues: dict[Path, SavedLeague]) -> tuple[SavedLeague, str]:
    """The league of a snapshot or mixture, and the name of that."""
    path = Path(source)
    folder, name = (path.parent.parent, "") if path.suffix == ".safetensors" else split_snapshot(source)
    if folder not in leagues:
        leagues[folder] = load_league(folder)
    league = leagues[folder]
    if not name:
        found = [name for name, digest in league.digests.items() if digest == path.stem]
        if not found:
            raise InputError(f"the league in {folder} has no snapshot {path.name}")
        name = found[0]
    return league, name


def _read_snapshot(league: SavedLeague, name: str, greedy: bool) -> TrainedPolicies:
    policies = league.policies(name, greedy=greedy)
    digest = league.digests[name]
    return TrainedPolicies(
        env=league.env,
        settings=league.settings,
        spec=league.spec,
        policies=policies,
        env_steps=league.env_steps[name],
        file=league.path / SNAPSHOTS / f"{digest}.safetensors",
        digest=digest[:16],
        teams=league.teams,
    )


def _read_mixture(league: SavedLeague, greedy: bool) -> TrainedPolicies:
    mixture = league.mix(list(league.digests))
    # Solvers leave traces of what has no share.
    shares = {name: share for name, share in mixture.shares.items() if share > 1e-6}
    members = {name: league.policies(name, greedy=greedy) for name in shares}
    weights = np.array(list(shares.values()))
    content = ";".join(f"{league.digests[name]} {share:.6f}" for name, share in shares.items())
    return TrainedPolicies(
        env=league.env,
        settings=league.settings,
        spec=league.spec,
        policies=mix_policies(league.spec, list(members.values()), weights / weights.sum(), teams=league.teams),
        env_steps=max(league.env_steps.values()),
        file=None,
        digest=hashlib.sha256(content.encode()).hexdigest()[:16],
        teams=league.teams,
        mixture=mixture,
        members=members,
    )


def split_snapshot(source: str) -> tuple[Path, str]:
    """Splits ``RUN@SNAPSHOT``."""
    folder, _, name = source.rpartition("@")
    return Path(folder), name
