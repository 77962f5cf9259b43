"""Leagues read back from disk: their snapshots, and the payoffs between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from marl.builders import Builder
from marl.checkpoints.checkpoint import load_checkpoint
from marl.checkpoints.snapshots import read_snapshot
from marl.core import EnvironmentFactory
from marl.errors import InputError, nearest
from marl.games.sides import read_teams
from marl.launchers.run.run_directory import RunDirectory
from marl.launchers.run.settings import Settings, from_json
from marl.launchers.run.trained_run import saved_parts
from marl.league.opponents import make_frozen_policies
from marl.league.roles import MetaStrategy, alpha_rank_mixture, nash_mixture, uniform_mixture
from marl.policy import Policy
from marl.ratings.payoffs import PayoffTable
from marl.ratings.replicator import replicator_mixture
from marl.specs import EnvironmentSpec
from marl.states import unflatten_state

SNAPSHOTS: Final = "snapshots"
"""The folder of snapshots in a league's run directory."""
META_STRATEGIES: Final[Mapping[str, MetaStrategy]] = {
    "psro-nash": nash_mixture,
    "psro-alpha-rank": alpha_rank_mixture,
    "psro-uniform": uniform_mixture,
    "psro-replicator": replicator_mixture,
}
"""The mixtures of PSRO by the names that ``--matchmaking`` takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """Snapshots of a league, of which one is drawn before each game."""

    shares: Mapping[str, float]
    """Of all snapshots that it was made of, by name; they sum to 1."""
    rule: str
    """What the shares are: ``psro-nash`` and the like, ``nash`` in other leagues that measure games between snapshots,
    ``equal`` where nothing was measured."""

    def __str__(self) -> str:
        if self.rule == "equal":
            return "equal shares"
        shown = [f"{name} {share:.3f}" for name, share in self.shares.items() if share >= 0.0005]
        left_out = len(self.shares) - len(shown)
        return f"{self.rule}: {', '.join(shown)}" + (f"; {left_out} more below 0.0005" if left_out else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedLeague:
    """A league, read from its run directory."""

    path: Path
    algorithm: str
    env: str
    environment: EnvironmentFactory
    settings: Settings[Any]
    builder: Builder[Any]
    spec: EnvironmentSpec
    payoffs: PayoffTable
    """All games of learning players."""
    digests: Mapping[str, str]
    """Of each snapshot, oldest first."""
    env_steps: Mapping[str, int]
    """Environment steps at which each snapshot was taken."""

    matchmaking: str
    """As it was named on the command line."""
    teams: Mapping[str, str] | None
    """The team of each agent; see ``Sides``."""

    @property
    def mixture(self) -> dict[str, float]:
        """The share of each snapshot in the league's own mixture; see ``mix``."""
        return dict(self.mix(list(self.digests)).shares)

    def mix(self, names: Sequence[str]) -> Mixture:
        """The mixture that solves the game between some snapshots, as PSRO of this league does.

        Other leagues have the equilibrium of greatest entropy, if games between their snapshots were measured (see
        ``--measure-games``), else equal shares.

        Args:
            names: of snapshots, each once.

        Raises:
            InputError: there is no such snapshot.
        """
        for name in names:
            self._find(name)
        rows = [self.payoffs.index(name) for name in names]
        among = np.ix_(rows, rows)
        rule, strategy = self.matchmaking, META_STRATEGIES.get(self.matchmaking)
        if strategy is None:
            measured = bool(self.payoffs.games()[among].any())
            rule, strategy = ("nash", nash_mixture) if measured else ("equal", uniform_mixture)
        shares = strategy(self.payoffs.antisymmetric_payoff()[among])
        return Mixture(shares=dict(zip(names, shares.tolist(), strict=True)), rule=rule)

    def policies(self, name: str, *, greedy: bool = True) -> Mapping[str, Policy]:
        """Loads a snapshot's policies, one a group.

        Raises:
            InputError: there is no such snapshot, or its file is missing or damaged.
        """
        parameters = read_snapshot(self.path / SNAPSHOTS / f"{self._find(name)}.safetensors")
        return make_frozen_policies(self.builder, self.spec, parameters, greedy=greedy)

    def _find(self, name: str) -> str:
        """The digest of a snapshot by name."""
        if name not in self.digests:
            raise InputError(f"{self.path} has no snapshot {name!r}{nearest(name, self.digests)}")
        return self.digests[name]


def load_league(path: Path | str) -> SavedLeague:
    """Loads the league in a run directory, as of its newest checkpoint.

    Raises:
        InputError: there is none.
    """
    run = RunDirectory.open(Path(path))
    config = run.config
    if "league" not in config:
        raise InputError(f"{run.path} is a run of marl train, not of marl league")
    settings = from_json(config)
    builder, environment, probe = saved_parts(config, settings)
    state = unflatten_state(unflatten_state(load_checkpoint(run.checkpoints).tensors)["league"])
    payoffs = PayoffTable()
    payoffs.load_state_dict(state["payoffs"])
    digests = [bytes(row).hex() for row in state["snapshots"]["digests"].tolist()]
    return SavedLeague(
        path=run.path,
        algorithm=str(config["name"]),
        env=str(config["env"]),
        environment=environment,
        settings=settings,
        builder=builder,
        spec=probe.spec,
        payoffs=payoffs,
        digests=dict(zip(payoffs.players[-len(digests) :], digests, strict=True)),
        env_steps=dict(zip(payoffs.players[-len(digests) :], state["snapshots"]["env_steps"].tolist(), strict=True)),
        matchmaking=str(config["league"]["matchmaking"]),
        teams=read_teams(config["league"].get("teams")),
    )
