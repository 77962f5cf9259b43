"""Leagues read back from disk: their snapshots, and the payoffs between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from marl.builders import Builder
from marl.checkpoints.checkpoint import load_checkpoint
from marl.checkpoints.snapshots import read_snapshot
from marl.core import EnvironmentFactory
from marl.errors import InputError, nearest
from marl.launchers.run.run_directory import RunDirectory
from marl.launchers.run.settings import Settings, from_json
from marl.launchers.run.trained_run import saved_parts
from marl.league.opponents import make_frozen_policies
from marl.policy import Policy
from marl.ratings.nash import nash_averaging
from marl.ratings.payoffs import PayoffTable
from marl.specs import EnvironmentSpec
from marl.states import unflatten_state

SNAPSHOTS: Final = "snapshots"
"""The folder of snapshots in a league's run directory."""


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

    @property
    def mixture(self) -> dict[str, float]:
        """The share of each snapshot in the equilibrium of the games between snapshots (see ``--measure-games``)."""
        rows = [self.payoffs.index(name) for name in self.digests]
        shares = nash_averaging(self.payoffs.antisymmetric_payoff()[np.ix_(rows, rows)]).mixture
        return dict(zip(self.digests, shares.tolist(), strict=True))

    def policies(self, name: str, *, greedy: bool = True) -> Mapping[str, Policy]:
        """Loads a snapshot's policies, one a group.

        Raises:
            InputError: there is no such snapshot, or its file is missing or damaged.
        """
        if name not in self.digests:
            raise InputError(f"{self.path} has no snapshot {name!r}{nearest(name, self.digests)}")
        parameters = read_snapshot(self.path / SNAPSHOTS / f"{self.digests[name]}.safetensors")
        return make_frozen_policies(self.builder, self.spec, parameters, greedy=greedy)


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
    )
