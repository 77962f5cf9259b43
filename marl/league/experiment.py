"""A league's players that learn, each an experiment of its own, put together into one run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import torch

from marl.builders import RunContext
from marl.checkpoints.checkpoint import Checkpoint
from marl.checkpoints.checkpointer import AsyncCheckpointer, Checkpointer
from marl.checkpoints.snapshots import SnapshotStore
from marl.checkpoints.state import flatten_state, unflatten_state
from marl.core import Actor, Adder, Communicator, Logger, Metrics, State
from marl.counters import Counter
from marl.distributed.communicators import SerialCommunicator
from marl.errors import InputError
from marl.experiments.config import ExperimentConfig, Result
from marl.experiments.experiment import Experiment, refused_where_unfit
from marl.experiments.loop import after, next_due
from marl.experiments.usage import Usage
from marl.files import Json
from marl.games.sides import Sides
from marl.league.evaluation import GameEvaluation
from marl.league.league import League, Role
from marl.league.opponents import FrozenPolicies, LeagueOpponents
from marl.league.results import Results
from marl.loggers import NullLogger
from marl.policy import Policy
from marl.self_play.actor import make_self_play_actor
from marl.self_play.matches import play_games
from marl.self_play.opponents import RANDOM
from marl.specs import EnvironmentSpec
from marl.streams import derive_int

_REPLAY_STEPS: Final = 32
"""Steps of each copy in a round of players that learn from replay."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeagueConfig:
    """Who learns, by playing whom, where, and for how long."""

    experiment: ExperimentConfig
    """What each player that learns does. Steps are those of all players together, copies those of each."""
    learners: Mapping[str, Role]
    """The players that learn, by name; the first one is the main player, which is evaluated."""
    side_of: Mapping[str, str] | None = None
    """The side of each agent; see ``self_play.Sides``."""
    swap_steps: int | None = None
    """A copy keeps its opponents for so many environment steps of the learner (but for whole episodes); None for
    new opponents every episode."""
    memory: int = 1000
    """Recent games between two players that matchmaking reads."""
    measure_games: int = 0
    """Games that each new snapshot plays against every earlier one, half from each seat; for two sides."""
    directory: Path | None = None
    """Where snapshots are written; None to keep them in memory and in checkpoints."""


class LeagueExperiment:
    """Players that learn by playing each other's past; alone, one player's self-play.

    In each round every player gathers one rollout and learns from it, or learns from replay for as long; then results
    are summed over ranks, snapshots are taken where they are due, and matches are set anew.

    Args:
        config: what to do.
        communicator: the ranks; this process alone by default.

    Raises:
        InputError: the algorithm cannot learn on this environment or from self-play, or there are no two sides.
    """

    def __init__(self, config: LeagueConfig, communicator: Communicator | None = None) -> None:
        self.config = config
        self.communicator = SerialCommunicator() if communicator is None else communicator
        self.counter = Counter()
        """Counts of all players together."""
        if not config.learners:
            raise InputError("a league needs at least one player that learns")
        names = list(config.learners)
        self.league = League(
            config.learners,
            SnapshotStore(config.directory, writes=self.communicator.rank == 0),
            memory=config.memory,
        )
        self._opponents: dict[str, LeagueOpponents] = {}
        self.players: dict[str, Experiment] = {}
        """The experiments of the players that learn."""
        for name in names:
            # Each player has random streams of its own.
            seed = derive_int(config.experiment.seed, "league", names.index(name)) if self.players else None
            steps = -(-config.experiment.steps // len(names))
            experiment = replace(config.experiment, seed=config.experiment.seed if seed is None else seed, steps=steps)
            self.players[name] = Experiment(experiment, self.communicator, self._actor_factory(name))
            if experiment.builder.with_state and not experiment.builder.on_policy:
                raise InputError(
                    "a critic or a mixer of all agents would take opponents for its own; use iql, iddpg, isac, mappo "
                    "or ippo"
                )
        if config.measure_games and len(self.sides) != 2:
            raise InputError(f"games are measured between two sides, and this game has {len(self.sides)}")
        if config.experiment.builder.team_reward:
            raise InputError("a team reward adds up what opponents receive; self-play needs each agent's own")
        self.main = names[0]
        """The player that is evaluated."""
        self._first: dict[str, State] = {
            name: {key: tensor.clone() for key, tensor in self.players[name].learner.state_dict().items()}
            for name, role in config.learners.items()
            if role.restarts
        }
        self._results = {name: Results(len(names), len(self.sides)) for name in names}
        self.resumed = False
        """Whether a checkpoint was loaded."""

    @property
    def refills(self) -> bool:
        """True if the replay of a player starts empty after ``load``."""
        return any(player.refills for player in self.players.values())

    def run(
        self,
        logger: Logger | None = None,
        checkpointer: Checkpointer | AsyncCheckpointer | None = None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Result:
        """Trains until all steps are done, or until some rank wants to stop; arguments as in ``Experiment.run``."""
        config, counter, communicator = self.config.experiment, self.counter, self.communicator
        logger = NullLogger() if logger is None or communicator.rank else logger
        saving = torch.tensor([checkpointer is not None])
        communicator.broadcast(saving)
        self._begin()
        saved = counter.env_steps if self.resumed else -1
        next_save = next_due(counter.env_steps, config.checkpoint_every)
        next_evaluation = next_due(counter.env_steps, config.evaluate_every)
        next_row = after(counter.env_steps, config.row_every or 1)
        usage = Usage(counter, communicator)
        stopped = False
        main = self.players[self.main]
        while counter.env_steps < config.steps and not stopped:
            metrics, stopped = self._round(should_stop)
            evaluates = next_evaluation is not None and counter.env_steps >= next_evaluation
            measures = main.measure_if_due()
            if evaluates or measures or counter.env_steps >= min(next_row, config.steps):
                next_row = after(counter.env_steps, config.row_every or 1)
                next_evaluation = next_due(counter.env_steps, config.evaluate_every)
                figures = self._figures()
                row = {**usage.row(), **figures, **metrics}
                row |= main.measured if measures else {}
                if evaluates:
                    row |= self.evaluate().summary()
                logger.write(row)
            if next_save is not None and counter.env_steps >= next_save and not stopped:
                next_save = next_due(counter.env_steps, config.checkpoint_every)
                if saving:
                    self.save(checkpointer)
                    saved = counter.env_steps
        if saving and saved != counter.env_steps:
            self.save(checkpointer)
        evaluation = self.evaluate() if config.evaluation_episodes and not stopped else None
        return Result(
            counter=counter,
            learner_state=main.learner.state_dict(),
            evaluation=evaluation,
            stopped=stopped,
            measured=main.measured,
        )

    @property
    def sides(self) -> Sides:
        """The sides of the game."""
        return self._sides

    def evaluate(self) -> GameEvaluation:
        """Greedy games of the main player against random opponents, from each side in turn. Collective."""
        main = self.players[self.main]
        games, num_sides = max(1, main.config.evaluation_episodes), len(self.sides)
        sides = torch.arange(games) % num_sides
        seating = torch.full((games, num_sides), RANDOM)
        seating[torch.arange(games), sides] = 0
        returns, lengths, stopped = play_games(
            seating,
            lambda player: main.greedy,
            main.config.environment,
            side_of=self.config.side_of,
            num_envs=main.config.num_envs,
            seed=main.config.seed,
            purpose="evaluate",
            communicator=self.communicator,
            sharing=main.config.builder.sharing,
            like=main.greedy,
            max_steps=self.config.experiment.evaluation_max_steps,
        )
        own = returns.gather(1, sides.unsqueeze(1))
        points = (1 + (own - returns).sign()).sum(1) - 1
        return GameEvaluation(
            agents=(self.main,),
            returns=own,
            lengths=lengths.long(),
            names=self.sides.names,
            sides=sides,
            stopped=int(stopped.sum()),
            points=points / (2 * (num_sides - 1)),
        )

    def save(self, checkpointer: Checkpointer | AsyncCheckpointer | None) -> None:
        """Saves, on rank 0, everything that decides the future. Collective; between rounds."""
        main, *others = self.players
        state = self.players[main].gather_state() | {"league": self.league.state_dict()}
        state["results"] = {name: r.sides.clone() for name, r in self._results.items()}
        for name in others:
            state[f"player/{name}"] = flatten_state(self.players[name].gather_state())
        if self.communicator.rank == 0:
            assert checkpointer is not None, "rank 0 needs to know where to save"
            counters: dict[str, Json] = {name: player.counter.state_dict() for name, player in self.players.items()}
            metadata: dict[str, Json] = {"counter": self.counter.state_dict(), "counters": counters}
            checkpointer.save(self.counter.env_steps, flatten_state(state), metadata)

    def load(self, checkpoint: Checkpoint) -> None:
        """Goes on where a checkpoint stopped, on any number of ranks.

        Raises:
            InputError: the checkpoint does not fit, or a snapshot is missing or damaged.
        """
        with refused_where_unfit(checkpoint):
            parts = unflatten_state(checkpoint.tensors)
            if "league" not in parts:
                raise ValueError("it is not of a league")
            counters = checkpoint.metadata["counters"]
            assert isinstance(counters, dict)
            if list(counters) != sorted(self.players):
                raise ValueError(f"its players are {', '.join(counters)}, not {', '.join(sorted(self.players))}")
            self.league.load_state_dict(parts["league"])
            self._make_room()
            for name, player in self.players.items():
                own = parts if name == self.main else unflatten_state(parts[f"player/{name}"])
                player.restore(own, counters[name])
                self._results[name].sides.copy_(parts["results"][name])
            counts = checkpoint.metadata["counter"]
            assert isinstance(counts, dict)
            self.counter.load_state_dict(counts)
        self.resumed = True

    def close(self) -> None:
        """Closes the environments."""
        for player in self.players.values():
            player.close()

    def _actor_factory(self, name: str) -> Callable[..., Actor]:
        def make(spec: EnvironmentSpec, policies: Mapping[str, Policy], context: RunContext, adder: Adder) -> Actor:
            self._sides = Sides(spec, self.config.side_of)
            self._frozen = FrozenPolicies(self.config.experiment.builder, spec, self.league)
            swap_steps = self.config.swap_steps
            opponents = LeagueOpponents(
                self.league,
                name,
                self._frozen,
                num_sides=len(self._sides),
                num_envs=context.num_envs,
                first_env=context.first_env,
                seed=context.seed,
                swap_period=None if swap_steps is None else lambda: context.counter.env_steps // swap_steps,
            )
            self._opponents[name] = opponents
            return make_self_play_actor(
                spec,
                policies,
                adder,
                self._sides,
                opponents,
                num_envs=context.num_envs,
                seed=context.seed,
                first_env=context.first_env,
                device=context.device,
            )

        return make

    def _begin(self) -> None:
        if not self.resumed:
            for name in self.players:
                self._take_snapshot(name)
            self.league.refresh()
            self._make_room()
        for player in self.players.values():
            player.begin()

    def _round(self, should_stop: Callable[[], bool]) -> tuple[dict[str, float], bool]:
        """One update of every player; their figures, and whether any rank wants to stop."""
        metrics: dict[str, float] = {}
        stopped = False
        before = self.counter.env_steps
        for name, player in self.players.items():
            metrics |= self._named(name, self._advance(player, should_stop))
            stopped = stopped or player.communicator.passed
        self.counter.env_steps = sum(player.counter.env_steps for player in self.players.values())
        self.counter.updates += 1
        assert self.counter.env_steps > before
        for name in self.players:
            total = self.league.add_results(name, self._opponents[name].results, self.communicator)
            self._results[name].sides += total.sides
        for name, player in self.players.items():
            role = self.league.learners[name]
            since = player.counter.env_steps - self.league.snapshot(self.league.past(name)[-1]).env_steps
            if role.snapshot_due(self.league, name, since):
                self._take_snapshot(name)
                if role.restarts:
                    player.restart(self._first[name])
                    self.league.forget(name)
        self.league.refresh()
        self._make_room()
        return metrics, stopped

    def _advance(self, player: Experiment, should_stop: Callable[[], bool]) -> Metrics:
        """One player's part of a round: up to an update from a rollout, or a stretch of updates from replay."""
        figures: Metrics | None = None
        if player.config.builder.on_policy:
            while figures is None:
                figures = player.advance(should_stop)
            return figures
        for _ in range(_REPLAY_STEPS):
            figures = player.advance(should_stop) or figures
        if figures is None:
            # While replay fills there are no gradients that the question could travel with.
            player.poll_stop(should_stop())
        return figures or {}

    def _take_snapshot(self, name: str) -> None:
        player = self.players[name]
        self.league.take_snapshot(name, player.learner.get_variables(), player.counter.env_steps, self.communicator)
        self._measure(name)

    def _measure(self, name: str) -> None:
        """Lets the newest snapshot play all the others; results are the same on all ranks. Collective."""
        newest, games = len(self.league.players) - 1, self.config.measure_games
        others = torch.arange(len(self.league.learners), newest)
        if not games or not others.numel():
            return
        pairs = torch.stack((torch.full_like(others, newest), others), dim=1)
        seating = torch.cat((pairs, pairs.flip(1))).repeat(-(-games // 2), 1)
        player = self.players[name]
        returns, _, _ = play_games(
            seating,
            self._frozen,
            player.config.environment,
            side_of=self.config.side_of,
            num_envs=player.config.num_envs,
            seed=derive_int(self.config.experiment.seed, "measure", newest),
            purpose="measure",
            communicator=self.communicator,
            sharing=player.config.builder.sharing,
            like=self._frozen(newest),
            max_steps=self.config.experiment.evaluation_max_steps,
        )
        self.league.add_games(seating[:, 0].numpy(), seating[:, 1].numpy(), returns.numpy())

    def _make_room(self) -> None:
        for opponents in self._opponents.values():
            opponents.results.make_room(len(self.league.players))

    def _figures(self) -> dict[str, float]:
        """Returns, and scores since the last row; summed over ranks."""
        figures: dict[str, float] = {"league/players": len(self.league.players)}
        for name, player in self.players.items():
            episodes, returns = player.statistics.reduce(self.communicator)
            self.counter.episodes += episodes
            figures |= self._named(name, returns)
            sides = self._results[name].sides
            games, points = sides.sum(0).tolist()
            figures[f"{name}/games"] = games
            if games:
                figures[f"{name}/score"] = points / games
            for side, (count, won) in zip(self.sides.names, sides.tolist(), strict=True):
                if count:
                    figures[f"{name}/score/{side}"] = won / count
            sides.zero_()
        return figures

    def _named(self, name: str, figures: Mapping[str, float]) -> dict[str, float]:
        """Figures of the main player go by their own names, those of others by the player's first."""
        return dict(figures) if name == self.main else {f"{name}/{key}": value for key, value in figures.items()}
