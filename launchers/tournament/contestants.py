"""Players of a tournament: named on the command line, checked, and made ready to play."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from marl.checkpoints.checkpoint import list_checkpoints
from marl.errors import InputError, nearest
from marl.games.object_player import ObjectPlayer
from marl.games.player import Player
from marl.games.policy_players import PolicyPlayer, RandomPlayer
from marl.launchers.run.choices import ActionSelection
from marl.launchers.run.policy_sources import TrainedPolicies, read_source, split_snapshot
from marl.launchers.run.saved_league import SavedLeague
from marl.policy import Policy
from marl.specs import EnvironmentSpec, GroupSpec

Kind = Literal["random", "class", "run"]


_NAME: Final = re.compile(r"[\w.@+-]+")
_CLASS: Final = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One player as it was named."""

    name: str
    kind: Kind
    source: str
    """``random``, a class as ``module:Class``, or whatever ``read_source`` reads."""
    folder: Path = field(default_factory=Path.cwd, compare=False)
    """The folder in which it was named: environments may lead the process elsewhere."""


def read_entries(arguments: Sequence[str]) -> list[Entry]:
    """Reads ``NAME=SOURCE`` or ``SOURCE`` arguments; a name is made of the source where none is given.

    Raises:
        InputError: a name is used twice, or makes no name; or a path leads nowhere.
    """
    entries: list[Entry] = []
    for argument in arguments:
        name, equals, source = argument.partition("=")
        if not equals or not _NAME.fullmatch(name):
            name, source = "", argument
        if not source:
            raise InputError(f"player {name} has no source; give {name}=RUN, {name}=random or {name}=module:Class")
        kind: Kind = "run"
        if source == "random":
            kind = "random"
        elif _CLASS.fullmatch(source) and not Path(source).exists():
            kind = "class"
        entries.append(Entry(name=name or _default_name(kind, source), kind=kind, source=source))
    for index, entry in enumerate(entries):
        for other in entries[:index]:
            if other.name == entry.name:
                raise InputError(
                    f"two players are called {entry.name} ({other.source} and {entry.source}); "
                    "give them names of their own: NAME=RUN"
                )
    for entry in entries:
        path = Path(entry.source)
        if entry.kind == "run" and not (
            path.exists() or (split_snapshot(entry.source)[0].is_dir() and "@" in path.name)
        ):
            raise InputError(f"there is no run or snapshot {entry.source} (player {entry.name})")
    return entries


def _default_name(kind: Kind, source: str) -> str:
    if kind == "random":
        return "random"
    if kind == "class":
        return source.partition(":")[2]
    path = Path(source)
    parts = [part for part in path.resolve().parts if part != "checkpoints"]
    names = parts[-2:] if (path / "manifest.json").exists() else parts[-1:]
    return "@".join(re.sub(r"[^\w.+-]+", "-", name) for name in names) or "player"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """A player that has been loaded."""

    entry: Entry
    run: TrainedPolicies | None = None
    make: Callable[..., Any] | None = None

    @property
    def env_steps(self) -> int | None:
        """Environment steps that the run had been trained for."""
        return None if self.run is None else self.run.env_steps

    def player(self, spec: EnvironmentSpec) -> Player:
        """Makes the player for an environment of this spec.

        Raises:
            InputError: the run was trained on other spaces, or the class cannot be made.
        """
        if self.run is not None:
            refuse_other_spaces(self.entry.name, self.run.spec, spec)
            return PolicyPlayer(self.run.spec, self.run.policies)
        if self.make is None:
            return RandomPlayer(spec)
        if isinstance(self.make, type) and issubclass(self.make, Policy):
            return PolicyPlayer(spec, {group.name: self._policy(group) for group in spec.groups})
        return ObjectPlayer(self.make)

    def _policy(self, group: GroupSpec) -> Policy:
        assert self.make is not None
        try:
            policy: Policy = self.make(group)
        except Exception as error:
            raise InputError(
                f"player {self.entry.name}: {self.entry.source}(group) failed: {type(error).__name__}: {error}"
            ) from error
        return policy

    def describe(self) -> dict[str, Any]:
        """The identity of the player, as JSON."""
        return {
            "kind": self.entry.kind,
            "source": self.entry.source,
            "checkpoint": "" if self.run is None or self.run.file is None else str(self._named(self.run.file)),
            "digest": "" if self.run is None else self.run.digest,
        }

    def _named(self, file: Path) -> Path:
        """The file as the source was named, so that a folder of runs can be moved with its tournaments."""
        folder = self.entry.folder
        return file if Path(self.entry.source).is_absolute() or folder not in file.parents else file.relative_to(folder)


def load_contestant(
    entry: Entry,
    *,
    action_selection: ActionSelection,
    env_kwargs: str | None = None,
    checkpoint: str | None = None,
    leagues: dict[Path, SavedLeague] | None = None,
) -> Contestant:
    """Loads one player.

    Args:
        entry: as it was named.
        action_selection: whether trained policies take their best action, or draw one as in training.
        env_kwargs: arguments of the environment other than the run's.
        checkpoint: the very checkpoint to take of a run; the newest whole one by default.
        leagues: as in ``read_source``.

    Raises:
        InputError: there is no such class, run or snapshot, or it does not fit its configuration.
    """
    if entry.kind == "random":
        return Contestant(entry=entry)
    if entry.kind == "class":
        return Contestant(entry=entry, make=find_class(entry))
    path = entry.folder / (checkpoint or entry.source)
    if checkpoint and not path.exists():
        left = ", ".join(other.name for other in list_checkpoints(path.parent)) or "none"
        raise InputError(f"player {entry.name}: the checkpoint {path} is gone; in its folder there are now: {left}")
    try:
        run = read_source(str(path), action_selection=action_selection, env_kwargs=env_kwargs, leagues=leagues)
    except InputError as error:
        raise InputError(f"player {entry.name}: {error}") from error
    return Contestant(entry=entry, run=run)


def find_class(entry: Entry) -> Callable[..., Any]:
    """Imports the class that an entry names; InputError where there is none that can play."""
    module_name, _, attribute = entry.source.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"player {entry.name}: {module_name} cannot be imported: {type(error).__name__}: {reason}"
        ) from error
    found: Callable[..., Any] | None = getattr(module, attribute, None)
    if found is None or not callable(found):
        known = [key for key, value in vars(module).items() if isinstance(value, type) and not key.startswith("_")]
        near = nearest(attribute, known) if known else ""
        raise InputError(f"player {entry.name}: {module_name} has no class {attribute!r}{near}")
    if not (isinstance(found, type) and issubclass(found, Policy)) and not hasattr(found, "act"):
        raise InputError(
            f"player {entry.name}: {entry.source} cannot play: it has no act(agent, observation, action_mask), "
            "and is no marl.policy.Policy"
        )
    return found


def refuse_other_environments(contestants: Sequence[Contestant], env: str) -> None:
    """InputError where a run was trained on another environment."""
    for contestant in contestants:
        if contestant.run is not None and contestant.run.env != env:
            raise InputError(f"player {contestant.entry.name} was trained on {contestant.run.env}, not on {env}")


def refuse_other_spaces(name: str, trained: EnvironmentSpec, wanted: EnvironmentSpec) -> None:
    """InputError where a run's agents, or what they observe and do, are not those of the environment."""
    if trained.agents != wanted.agents:
        raise InputError(
            f"player {name} was trained with the agents {_few(trained.agents)}, but here there are "
            f"{_few(wanted.agents)}; --env-kwargs may tell why"
        )
    here = {agent: group for group in wanted.groups for agent in group.agents}
    for group in trained.groups:
        for agent in group.agents:
            other = here[agent]
            for what, mine, theirs in (
                ("observations", group.observation, other.observation),
                ("actions", group.action, other.action),
                ("action masks", group.masked, other.masked),
            ):
                if mine != theirs:
                    raise InputError(
                        f"player {name} was trained with other {what} of {agent}: {mine}, here {theirs}; "
                        "--env-kwargs may tell why"
                    )


def _few(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 6 else f"{', '.join(names[:5])}, … ({len(names)})"
