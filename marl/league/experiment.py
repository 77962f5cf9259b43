"""A league as one run: its learning players, each an experiment of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Final

from torch import Tensor

from marl.builders import RunContext
from marl.checkpoints.checkpoint import Checkpoint
from marl.checkpoints.checkpointer import AsyncCheckpointer, Checkpointer
from marl.checkpoints.snapshots import SnapshotStore
from marl.core import Actor, Adder, Communicator, Metrics, State
from marl.counters import Counter
from marl.distributed.communicators import SerialCommunicator
from marl.errors import InputError
from marl.experiments.config import Schedule
from marl.experiments.experiment import Experiment
from marl.experiments.saved_state import refuse_misfit
from marl.experiments.training_loop import TrainingTask
from marl.files import Json
from marl.games.sides import Sides
from marl.league.config import LeagueConfig
from marl.league.evaluation import GameEvaluation, evaluate_player, measure_newest_snapshot
from marl.league.league import League
from marl.league.opponents import FrozenPolicies, LeagueOpponents
from marl.league.results import LeagueResults
from marl.policy import Policy
from marl.random_streams import derive_int
from marl.self_play.actor import make_self_play_actor
from marl.specs import EnvironmentSpec
from marl.states import flatten_state, unflatten_state

_REPLAY_STEPS: Final = 32
"""Steps of each environment in a round of players that learn from replay."""


class LeagueExperiment(TrainingTask):
    """Players that learn by playing each other's past; self-play, if there is one player.

    In each round every player collects one rollout and learns from it, or learns from replay for as long; then results
    are summed over ranks, snapshots are taken if they are due, and the probabilities of opponents are updated.

    Args:
        config: the league.
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
        """The experiments of the learning players."""
        try:
            for number, name in enumerate(names):
                self.players[name] = self._make_player(number, name)
            self._check()
        except BaseException:
            self.close()
            raise
        self.main = names[0]
        """The player that is evaluated."""
        self._first: dict[str, State] = {
            name: {key: tensor.clone() for key, tensor in self.players[name].learner_state().items()}
            for name, role in config.learners.items()
            if role.restart_steps is not None
        }
        self._results = {name: LeagueResults(len(names), len(self.sides)) for name in names}

    @property
    def schedule(self) -> Schedule:
        return self.config.experiment

    @property
    def spec(self) -> EnvironmentSpec:
        return self.players[self.main].spec

    @property
    def sides(self) -> Sides:
        """The sides of the game."""
        return self._sides

    @property
    def num_parameters(self) -> int:
        return self.players[self.main].num_parameters

    @property
    def refills(self) -> bool:
        return any(player.refills for player in self.players.values())

    @property
    def stopped(self) -> bool:
        return any(player.stopped for player in self.players.values())

    def start(self) -> None:
        if not self.resumed:
            for name in self.players:
                self._take_snapshot(name)
            self.league.refresh()
            self._resize_results()
        for player in self.players.values():
            player.start()

    def advance(self, should_stop: Callable[[], bool] = lambda: False) -> Metrics:
        """Plays one round; see TrainingTask."""
        metrics: dict[str, float] = {}
        before = self.counter.env_steps
        for name, player in self.players.items():
            metrics |= self._prefixed(name, self._train(player, should_stop))
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
                if role.restart_steps is not None:
                    player.reset_learner(self._first[name])
                    self.league.forget(name)
        self.league.refresh()
        self._resize_results()
        return metrics

    def measure_if_due(self) -> Metrics | None:
        main = self.players[self.main]
        main.progress = self.progress
        return main.measure_if_due()

    def reduce_statistics(self) -> dict[str, float]:
        """Returns statistics of episodes, and scores of games, since the last call; summed over ranks. Collective."""
        metrics: dict[str, float] = {"league/players": len(self.league.players)}
        for name, player in self.players.items():
            episodes, returns = player.statistics.reduce(self.communicator)
            self.counter.episodes += episodes
            metrics |= self._prefixed(name, returns)
            sides = self._results[name].sides
            games, points = sides.sum(0).tolist()
            metrics[f"{name}/games"] = games
            if games:
                metrics[f"{name}/score"] = points / games
            for side, (count, won) in zip(self.sides.names, sides.tolist(), strict=True):
                if count:
                    metrics[f"{name}/score/{side}"] = won / count
            sides.zero_()
        return metrics

    def evaluate(self, *, final: bool = True) -> GameEvaluation:
        """Plays games of the main player against random opponents, on each side in turn. Collective."""
        return evaluate_player(
            self.main,
            self.players[self.main],
            self.sides,
            self.config.teams,
            self.communicator,
            final=final,
            progress=self.progress,
        )

    def replicas(self) -> Iterable[Tensor]:
        for player in self.players.values():
            yield from player.replicas()

    def learner_state(self) -> State:
        return self.players[self.main].learner_state()

    def save(self, checkpointer: Checkpointer | AsyncCheckpointer | None) -> None:
        main, *others = self.players
        state = self.players[main].gather_state() | {"league": self.league.state_dict()}
        state["results"] = {name: r.sides.clone() for name, r in self._results.items()}
        state["players"] = flatten_state({name: self.players[name].gather_state() for name in others})
        if self.communicator.rank == 0:
            assert checkpointer is not None, "rank 0 needs to know where to save"
            counters: dict[str, Json] = {name: player.counter.state_dict() for name, player in self.players.items()}
            metadata: dict[str, Json] = {"counter": self.counter.state_dict(), "counters": counters}
            checkpointer.save(self.counter.env_steps, flatten_state(state), metadata)

    def load(self, checkpoint: Checkpoint) -> None:
        """Resumes from a checkpoint, on any number of ranks.

        Raises:
            InputError: the checkpoint does not fit, or a snapshot is missing or damaged.
        """
        with refuse_misfit(checkpoint):
            parts = unflatten_state(checkpoint.tensors)
            if "league" not in parts:
                raise ValueError("it is not of a league")
            counters = checkpoint.metadata["counters"]
            assert isinstance(counters, dict)
            if list(counters) != sorted(self.players):
                raise ValueError(f"its players are {', '.join(counters)}, not {', '.join(sorted(self.players))}")
            self.league.load_state_dict(parts["league"])
            self._resize_results()
            players = unflatten_state(parts.get("players", {}))
            for name, player in self.players.items():
                own = parts if name == self.main else unflatten_state(players[name])
                player.restore(own, counters[name])
                self._results[name].sides.copy_(parts["results"][name])
            counts = checkpoint.metadata["counter"]
            assert isinstance(counts, dict)
            self.counter.load_state_dict(counts)
        self.resumed = True

    def close(self) -> None:
        for player in self.players.values():
            player.close()

    def _make_player(self, number: int, name: str) -> Experiment:
        config = self.config.experiment
        # Each player has random streams of its own.
        seed = derive_int(config.seed, "league", number) if number else config.seed
        steps = -(-config.steps // len(self.config.learners))
        config = replace(config, seed=seed, steps=steps, restart_steps=self.config.learners[name].restart_steps)
        return Experiment(config, self.communicator, self._actor_factory(name))

    def _check(self) -> None:
        """Refuses algorithms that cannot learn by playing others."""
        builder = self.config.experiment.builder
        if builder.with_state and not builder.on_policy:
            raise InputError(
                "a critic or a mixer of all agents would take opponents for its own; use iql, iddpg, isac, mappo "
                "or ippo"
            )
        if self.config.measure_games and len(self.sides) != 2:
            raise InputError(f"games are measured between two sides, and this game has {len(self.sides)}")
        for name, role in self.config.learners.items():
            if role.reads_measured_games and not self.config.measure_games:
                raise InputError(
                    f"{name} meets a mixture that follows from games between snapshots, so measure_games must be at "
                    "least 1"
                )
        if builder.team_reward:
            raise InputError(
                "a team reward adds up what opponents receive; self-play needs each agent's own: drop "
                "--algorithm.team-reward"
            )

    def _actor_factory(self, name: str) -> Callable[..., Actor]:
        def make(spec: EnvironmentSpec, policies: Mapping[str, Policy], context: RunContext, adder: Adder) -> Actor:
            self._sides = Sides(spec, self.config.teams)
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

    def _train(self, player: Experiment, should_stop: Callable[[], bool]) -> Metrics:
        """Trains one player for a round: up to an update from a rollout, or for several steps with replay."""
        metrics: Metrics | None = None
        if player.config.builder.on_policy:
            while metrics is None:
                metrics = player.step(should_stop)
            return metrics
        for _ in range(_REPLAY_STEPS):
            metrics = player.step(should_stop) or metrics
        if metrics is None:
            # While replay fills there are no gradients that the vote could travel with.
            player.poll_stop(should_stop())
        return metrics or {}

    def _take_snapshot(self, name: str) -> None:
        player = self.players[name]
        self.league.take_snapshot(name, player.learner.get_variables(), player.counter.env_steps, self.communicator)
        measure_newest_snapshot(
            self.league,
            self._frozen,
            player,
            self.config.measure_games,
            teams=self.config.teams,
            seed=derive_int(self.config.experiment.seed, "measure", len(self.league.players) - 1),
            communicator=self.communicator,
            progress=self.progress,
        )

    def _resize_results(self) -> None:
        for opponents in self._opponents.values():
            opponents.results.resize(len(self.league.players))

    def _prefixed(self, name: str, metrics: Metrics) -> dict[str, float]:
        """Metrics by their own names for the main player, prefixed by the player's name for the others."""
        return dict(metrics) if name == self.main else {f"{name}/{key}": value for key, value in metrics.items()}
