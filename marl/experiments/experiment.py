"""Experiments: the one place where parts are put together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import torch
from torch import Tensor

from marl.acting.environment_loop import EnvironmentLoop
from marl.acting.episodes import EpisodeStatistics, EpisodeTracker
from marl.acting.evaluation import Evaluation
from marl.acting.full_evaluation import evaluate_modes
from marl.acting.modes import modes_to_play
from marl.builders import RunContext
from marl.checkpoints.checkpoint import Checkpoint
from marl.checkpoints.checkpointer import AsyncCheckpointer, Checkpointer
from marl.core import Communicator, EnvironmentRequest, Metrics, Saveable, State, VectorEnvironment
from marl.counters import Counter
from marl.distributed.communicators import SerialCommunicator, split
from marl.distributed.stop_vote import StopVote
from marl.errors import InputError
from marl.experiments.config import ExperimentConfig, Result, Schedule
from marl.experiments.parts import ActorFactory, make_policy_actor, move_networks
from marl.experiments.saved_state import gather_parts, refuse_misfit, restore_parts
from marl.experiments.team_reward import TeamRewardCheck, refuse_adversaries
from marl.experiments.training_loop import Period, TrainingTask
from marl.loggers.base import Logger
from marl.random_streams import derive_int
from marl.resources.closing import close_all
from marl.specs import EnvironmentSpec
from marl.states import flatten_state, unflatten_state

_POLL_STEPS: Final = 100
"""Steps of every environment without an update after which ranks vote on stopping by a collective of its own."""


class Experiment(TrainingTask):
    """An experiment's parts on this rank, ready to run.

    Args:
        config: the experiment.
        communicator: the ranks; this process alone by default.
        make_actor: makes the actor; by default the policies act in all seats.

    Raises:
        InputError: the algorithm cannot learn on this environment, or the ranks cannot share the environments.
    """

    communicator: StopVote

    def __init__(
        self,
        config: ExperimentConfig,
        communicator: Communicator | None = None,
        make_actor: ActorFactory = make_policy_actor,
    ) -> None:
        self.config = config
        self.communicator = StopVote(SerialCommunicator() if communicator is None else communicator)
        self.counter = Counter()
        self.context = _make_context(config, self.communicator, self.counter)
        builder, context = config.builder, self.context
        self.environment: VectorEnvironment = config.environment(
            EnvironmentRequest(
                num_envs=context.num_envs,
                first_env=context.first_env,
                seed=config.seed,
                sharing=builder.sharing,
                with_state=builder.with_state,
            )
        )
        try:
            self._build(make_actor)
        except BaseException:
            # A refused experiment would else keep its environments, some with megabytes of pictures each.
            self.close()
            raise

    def _build(self, make_actor: ActorFactory) -> None:
        """Makes the algorithm's parts on the environment."""
        config, builder, context = self.config, self.config.builder, self.context
        spec = self.spec
        builder.check(spec, context)
        self._team_check: TeamRewardCheck | None = None
        if builder.team_reward and not builder.allow_opponents and len(spec.agents) > 1:
            refuse_adversaries(spec)
            self._team_check = TeamRewardCheck(spec, self.communicator)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_int(config.seed, "networks"))
            self.networks = builder.make_networks(spec)
        move_networks(self.networks, config.device)
        policies = builder.make_policies(spec, self.networks, evaluation=False, context=context)
        self.greedy = builder.make_policies(spec, self.networks, evaluation=True)
        self.sampled = builder.frozen_policies(spec, self.networks, greedy=False)
        self.modes = modes_to_play(config.evaluation_policy, stochastic=builder.is_stochastic(spec))
        self.dataset = builder.make_dataset(spec, policies, context)
        self.learner = builder.make_learner(spec, self.networks, self.dataset, context)
        self.adder = builder.make_adder(spec, self.dataset, context)
        self.actor = make_actor(spec, policies, context, self.adder)
        self._tracker = EpisodeTracker(spec, context.num_envs, device=config.device)
        self.statistics = EpisodeStatistics(self._tracker, context.num_envs)
        self.loop = EnvironmentLoop(self.environment, self.actor, self.statistics)
        self._measurements = Period(None, 0)
        self._next_poll = 0

    @property
    def schedule(self) -> Schedule:
        return self.config

    @property
    def spec(self) -> EnvironmentSpec:
        return self.environment.spec

    @property
    def num_parameters(self) -> int:
        return sum(tensor.numel() for tensor in self.learner.get_variables().values())

    @property
    def refills(self) -> bool:
        return self.dataset.refills

    @property
    def stopped(self) -> bool:
        return self.communicator.passed

    @property
    def at_boundary(self) -> bool:
        return self.dataset.at_boundary()

    def start(self) -> None:
        if not self.resumed:
            self.loop.begin()
        self._measurements = Period(self.config.measure_every, self.counter.env_steps)
        self._schedule_poll()

    def advance(self, should_stop: Callable[[], bool] = lambda: False) -> Metrics | None:
        """Steps every environment once; see TrainingTask."""
        votes = self.communicator.votes
        metrics = self.step(should_stop)
        if self.communicator.votes > votes:
            self._schedule_poll()
        elif self.counter.env_steps >= self._next_poll and self.dataset.at_boundary():
            # While replay fills, or a learner takes no gradients, there are none that the vote could travel with.
            self._schedule_poll()
            self.poll_stop(should_stop())
        return metrics

    def step(self, should_stop: Callable[[], bool] = lambda: False) -> Metrics | None:
        """Steps every environment once, as ``advance`` does, but votes on stopping at updates only."""
        self.loop.step()
        self.counter.env_steps += self.config.num_envs
        if self._team_check is not None:
            self._team_check.add(self.environment.current())
        metrics: Metrics | None = None
        while self.dataset.ready():
            if self._team_check is not None and self._team_check.decide():
                self._team_check = None
            self.communicator.requested = should_stop()
            metrics = self.learner.step()
            self.counter.updates += 1
            self.actor.update()
        return metrics

    def poll_stop(self, requested: bool) -> None:
        """Votes on stopping by a collective of its own; ``stopped`` tells the outcome."""
        ballot = torch.empty(1)
        self.communicator.requested = requested
        self.communicator.cast_vote(ballot)
        self.communicator.all_reduce(ballot)
        self.communicator.read_vote(ballot)

    def measure_if_due(self) -> Metrics | None:
        config, steps = self.config, self.counter.env_steps
        due = self._measurements.ended(steps) or steps >= config.steps
        if config.measure is None or not due:
            return None
        return config.measure(self.spec, self.sampled, self.progress) if self.communicator.rank == 0 else {}

    def reduce_statistics(self) -> Metrics:
        episodes, returns = self.statistics.reduce(self.communicator)
        self.counter.episodes += episodes
        return returns

    def evaluate(self, *, final: bool = True) -> Evaluation:
        policies = {"greedy": self.greedy, "sampled": self.sampled}
        return evaluate_modes(
            {mode: policies[mode] for mode in (self.modes if final else self.modes[:1])},
            self.spec,
            self.config.environment,
            episodes=self.config.evaluation_episodes,
            num_envs=self.config.num_envs,
            seed=self.config.seed,
            communicator=self.communicator,
            sharing=self.config.builder.sharing,
            device=self.context.device,
            max_steps=self.config.evaluation_max_steps,
            against_random=final,
            progress=self.progress,
        )

    def replicas(self) -> Iterable[Tensor]:
        # Only counts that ranks keep alike at every moment: episodes are summed over ranks now and then.
        yield torch.tensor([self.counter.env_steps, self.counter.updates])
        yield from self.learner.get_variables().values()

    def learner_state(self) -> State:
        return self.learner.state_dict()

    def reset_learner(self, state: State) -> None:
        """Resets the learner to an earlier state, with empty replay, if any, and schedules as at the start.

        Args:
            state: of the learner; the same on all ranks.
        """
        self.learner.load_state_dict({name: tensor.clone() for name, tensor in state.items()})
        self.dataset.clear()
        self.counter.began = self.counter.env_steps

    def save(self, checkpointer: Checkpointer | AsyncCheckpointer | None) -> None:
        state = self.gather_state()
        if self.communicator.rank == 0:
            assert checkpointer is not None, "rank 0 needs to know where to save"
            checkpointer.save(self.counter.env_steps, flatten_state(state), {"counter": self.counter.state_dict()})

    def load(self, checkpoint: Checkpoint) -> None:
        with refuse_misfit(checkpoint):
            self.restore(unflatten_state(checkpoint.tensors), checkpoint.metadata["counter"])

    def gather_state(self, communicator: Communicator | None = None) -> dict[str, Any]:
        """Gathers every part's state, and under ``envs`` the rows of all ranks' environments. Collective.

        Args:
            communicator: gathers the rows, to wherever its ``gather_rows`` does; by default the experiment's own, which
                gathers them on rank 0.
        """
        return gather_parts(self._parts(), communicator or self.communicator)

    def restore(self, parts: Mapping[str, State], counts: Any) -> None:
        """Restores the result of ``gather_state`` on any number of ranks, and the counter's state.

        Raises:
            KeyError, ValueError, RuntimeError, IndexError: something is missing or does not fit.
        """
        first = self.context.first_env
        rows = slice(first, first + self.context.num_envs)
        restore_parts(self._parts(), parts, num_envs=self.config.num_envs, rows=rows)
        assert isinstance(counts, dict)
        self.counter.load_state_dict(counts)
        self.loop.begin(self.environment.current())
        self.resumed = True

    def close(self) -> None:
        close_all([self.environment], "the environments", quiet=self.context.first_env > 0)

    def _schedule_poll(self) -> None:
        self._next_poll = self.counter.env_steps + _POLL_STEPS * self.config.num_envs

    def _parts(self) -> dict[str, Saveable]:
        return {
            "environment": self.environment,
            "learner": self.learner,
            "dataset": self.dataset,
            "adder": self.adder,
            "actor": self.actor,
            "tracker": self._tracker,
            "statistics": self.statistics,
        }


def run_experiment(
    config: ExperimentConfig,
    *,
    communicator: Communicator | None = None,
    logger: Logger | None = None,
    checkpointer: Checkpointer | AsyncCheckpointer | None = None,
    resume: Checkpoint | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Result:
    """Puts an experiment together and runs it; see Experiment."""
    experiment = Experiment(config, communicator)
    try:
        if resume is not None:
            experiment.load(resume)
        return experiment.run(logger, checkpointer, should_stop)
    finally:
        experiment.close()


def _make_context(config: ExperimentConfig, communicator: Communicator, counter: Counter) -> RunContext:
    if config.num_envs < communicator.size:
        raise InputError(
            f"{communicator.size} ranks cannot share {config.num_envs} environment copies; "
            f"raise --num-envs or start fewer ranks"
        )
    first, count = split(config.num_envs, communicator.size, communicator.rank)
    return RunContext(
        communicator=communicator,
        seed=config.seed,
        num_envs=count,
        total_envs=config.num_envs,
        first_env=first,
        total_steps=config.steps,
        restart_steps=config.restart_steps,
        counter=counter,
        device=config.device,
    )
