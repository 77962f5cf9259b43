"""The one place where parts are put together."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional

from marl.acting.actors import PolicyActor
from marl.acting.environment_loop import EnvironmentLoop
from marl.acting.episodes import EpisodeStatistics, EpisodeTracker
from marl.acting.evaluation import Evaluation, evaluate
from marl.builders import RunContext
from marl.checkpoints.checkpoint import Checkpoint
from marl.checkpoints.checkpointer import AsyncCheckpointer, Checkpointer
from marl.checkpoints.state import flatten_state, unflatten_state
from marl.core import (
    Actor,
    Adder,
    Communicator,
    EnvironmentRequest,
    Logger,
    Metrics,
    Saveable,
    State,
    VectorEnvironment,
)
from marl.counters import Counter
from marl.distributed.communicators import SerialCommunicator, split
from marl.distributed.stop_vote import StopVote
from marl.errors import InputError
from marl.experiments.config import ExperimentConfig, Result
from marl.experiments.loop import after, next_due
from marl.experiments.usage import Usage
from marl.loggers import NullLogger
from marl.networks.normalizers import Normalizer
from marl.policy import Policy
from marl.specs import EnvironmentSpec
from marl.streams import derive_int

_POLL_STEPS: Final = 100
"""Steps of every copy without an update after which ranks agree on stopping by a collective of its own."""


ActorFactory = Callable[[EnvironmentSpec, Mapping[str, Policy], RunContext, Adder], Actor]
"""From the spec, the exploring policies, where they run and where experience goes, to who acts."""


def make_policy_actor(
    spec: EnvironmentSpec, policies: Mapping[str, Policy], context: RunContext, adder: Adder
) -> PolicyActor:
    """The policies act in all seats."""
    return PolicyActor(
        policies,
        {group.name: group.size for group in spec.groups},
        num_envs=context.num_envs,
        seed=context.seed,
        first_env=context.first_env,
        adder=adder,
        device=context.device,
    )


def move_networks(networks: object, device: torch.device) -> None:
    """Moves what a builder made to a device: modules and normalisers within mappings, sequences and dataclasses."""
    if isinstance(networks, (torch.nn.Module, Normalizer)):
        networks.to(device)
    elif isinstance(networks, Mapping):
        for part in networks.values():
            move_networks(part, device)
    elif isinstance(networks, (list, tuple)):
        for part in networks:
            move_networks(part, device)
    elif is_dataclass(networks):
        for part in fields(networks):
            move_networks(getattr(networks, part.name), device)


class Experiment:
    """An experiment's parts on this rank, ready to run.

    Args:
        config: what to do.
        communicator: the ranks; this process alone by default.
        make_actor: who acts; the policies, in all seats, by default.

    Raises:
        InputError: the algorithm cannot learn on this environment, or the ranks cannot share the copies.
    """

    def __init__(
        self,
        config: ExperimentConfig,
        communicator: Communicator | None = None,
        make_actor: ActorFactory = make_policy_actor,
    ) -> None:
        self.config = config
        self.communicator = StopVote(SerialCommunicator() if communicator is None else communicator)
        if config.num_envs < self.communicator.size:
            raise InputError(
                f"{self.communicator.size} ranks cannot share {config.num_envs} environment copies; "
                f"raise --num-envs or start fewer ranks"
            )
        builder = config.builder
        first, count = split(config.num_envs, self.communicator.size, self.communicator.rank)
        self.counter = Counter()
        self.context = RunContext(
            communicator=self.communicator,
            seed=config.seed,
            num_envs=count,
            total_envs=config.num_envs,
            first_env=first,
            total_steps=config.steps,
            counter=self.counter,
            device=config.device,
        )
        self.environment: VectorEnvironment = config.environment(
            EnvironmentRequest(
                num_envs=count,
                first_env=first,
                seed=config.seed,
                sharing=builder.sharing,
                with_state=builder.with_state,
            )
        )
        self.spec = self.environment.spec
        builder.check(self.spec, self.context)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_int(config.seed, "networks"))
            self.networks = builder.make_networks(self.spec)
        move_networks(self.networks, config.device)
        policies = builder.make_policies(self.spec, self.networks, evaluation=False, context=self.context)
        self.greedy = builder.make_policies(self.spec, self.networks, evaluation=True)
        self._measured_policies = builder.frozen_policies(self.spec, self.networks, greedy=False)
        self._next_measure: int | None = None
        self.measured: Metrics = {}
        """What was measured last; on rank 0."""
        self.dataset = builder.make_dataset(self.spec, policies, self.context)
        self.learner = builder.make_learner(self.spec, self.networks, self.dataset, self.context)
        self.adder = builder.make_adder(self.spec, self.dataset, self.context)
        self.actor = make_actor(self.spec, policies, self.context, self.adder)
        self._tracker = EpisodeTracker(self.spec, count, device=config.device)
        self.statistics = EpisodeStatistics(self._tracker, count)
        self.loop = EnvironmentLoop(self.environment, self.actor, self.statistics)
        self.resumed = False
        """Whether a checkpoint was loaded."""

    @property
    def refills(self) -> bool:
        """True if replay starts empty after ``load``, because the checkpoint does not hold it."""
        return bool(getattr(self.dataset, "refills", False))

    def run(
        self,
        logger: Logger | None = None,
        checkpointer: Checkpointer | AsyncCheckpointer | None = None,
        should_stop: Callable[[], bool] = lambda: False,
        at_boundary: Callable[[], object] = lambda: None,
    ) -> Result:
        """Trains until all steps are done, or until some rank wants to stop.

        What is due is told from the multiples of its distance that env_steps has passed, so that a resumed run
        writes the same rows, at the same updates, as one that was never interrupted.

        Args:
            logger: takes a row of metrics an update, on rank 0.
            checkpointer: saves on rank 0; None to save nothing.
            should_stop: asked before every update; it is enough that one rank says yes.
            at_boundary: called on all ranks before the first update and after each, where ``gather_state`` gives
                everything that decides the future.
        """
        config, counter, communicator = self.config, self.counter, self.communicator
        logger = NullLogger() if logger is None or communicator.rank else logger
        # Saving is collective, and it is rank 0 that knows whether to save.
        saving = torch.tensor([checkpointer is not None])
        communicator.broadcast(saving)
        self.begin()
        saved = counter.env_steps if self.resumed else -1
        next_save = next_due(counter.env_steps, config.checkpoint_every)
        next_evaluation = next_due(counter.env_steps, config.evaluate_every)
        next_row = after(counter.env_steps, config.row_every or 1)
        next_poll = counter.env_steps + _POLL_STEPS * config.num_envs
        usage = Usage(counter, communicator)
        at_boundary()
        # The last rollout is completed: what is half-gathered could be neither learned from nor saved.
        while (counter.env_steps < config.steps or not self.dataset.at_boundary()) and not communicator.passed:
            metrics = self.advance(should_stop)
            if metrics is None:
                if counter.env_steps >= next_poll and self.dataset.at_boundary():
                    # While replay fills there are no gradients that the question could travel with.
                    next_poll = counter.env_steps + _POLL_STEPS * config.num_envs
                    self.poll_stop(should_stop())
                continue
            next_poll = counter.env_steps + _POLL_STEPS * config.num_envs
            evaluates = next_evaluation is not None and counter.env_steps >= next_evaluation
            measures = self.measure_if_due()
            if evaluates or measures or counter.env_steps >= min(next_row, config.steps):
                next_row = after(counter.env_steps, config.row_every or 1)
                next_evaluation = next_due(counter.env_steps, config.evaluate_every)
                episodes, returns = self.statistics.reduce(communicator)
                counter.episodes += episodes
                row = {**usage.row(), **returns, **metrics}
                row |= self.measured if measures else {}
                if evaluates:
                    current = self.evaluate()
                    if communicator.rank == 0:
                        row |= current.summary()
                logger.write(row)
            if next_save is not None and counter.env_steps >= next_save and not communicator.passed:
                next_save = next_due(counter.env_steps, config.checkpoint_every)
                if saving:
                    self.save(checkpointer)
                    saved = counter.env_steps
            at_boundary()
        stopped = communicator.passed
        if saving and saved != counter.env_steps:
            self.save(checkpointer)
        evaluation = self.evaluate() if config.evaluation_episodes and not stopped else None
        return Result(
            counter=counter,
            learner_state=self.learner.state_dict(),
            evaluation=evaluation,
            stopped=stopped,
            measured=self.measured,
        )

    def begin(self) -> None:
        """Begins with new episodes in all copies, unless a checkpoint was loaded."""
        if not self.resumed:
            self.loop.begin()
        self._next_measure = next_due(self.counter.env_steps, self.config.measure_every)

    def measure_if_due(self) -> bool:
        """Measures, on rank 0, where it is due by the environment steps done; whether it was, the same on all ranks."""
        config, done = self.config, self.counter.env_steps
        due = config.steps if self._next_measure is None else min(self._next_measure, config.steps)
        if config.measure is None or done < due:
            return False
        self._next_measure = next_due(done, config.measure_every)
        if self.communicator.rank == 0:
            self.measured = config.measure(self.spec, self._measured_policies)
        return True

    def advance(self, should_stop: Callable[[], bool] = lambda: False) -> Metrics | None:
        """One step of every copy, and the updates that it allows; the last one's figures, None where there was none.

        Args:
            should_stop: asked before every update; ``communicator.passed`` tells whether any rank said yes.
        """
        self.loop.step()
        self.counter.env_steps += self.config.num_envs
        metrics: Metrics | None = None
        while self.dataset.ready():
            self.communicator.requested = should_stop()
            metrics = self.learner.step()
            self.counter.updates += 1
            self.actor.update()
        return metrics

    def restart(self, state: State) -> None:
        """The learner begins anew with an earlier state, its replay, if any, empty, and its exploration at the start.

        Args:
            state: of the learner; the same on all ranks.
        """
        self.learner.load_state_dict({name: tensor.clone() for name, tensor in state.items()})
        self.dataset.clear()
        self.counter.began = self.counter.env_steps

    def poll_stop(self, requested: bool) -> None:
        """Agrees on stopping by a collective of its own; ``communicator.passed`` tells what came of it."""
        seat = torch.empty(1)
        self.communicator.requested = requested
        self.communicator.cast(seat)
        self.communicator.all_reduce(seat)
        self.communicator.read(seat)

    def evaluate(self) -> Evaluation:
        """Greedy episodes of the policies as they are now."""
        return evaluate(
            self.greedy,
            self.spec,
            self.config.environment,
            episodes=self.config.evaluation_episodes,
            num_envs=self.config.num_envs,
            seed=self.config.seed,
            communicator=self.communicator,
            sharing=self.config.builder.sharing,
            device=self.context.device,
            max_steps=self.config.evaluation_max_steps,
        )

    def save(self, checkpointer: Checkpointer | AsyncCheckpointer | None) -> None:
        """Gathers every rank's copies and saves, on rank 0, everything that decides the future.

        Collective; at an update boundary. Only rank 0 needs a checkpointer.
        """
        state = self.gather_state()
        if self.communicator.rank == 0:
            assert checkpointer is not None, "rank 0 needs to know where to save"
            checkpointer.save(self.counter.env_steps, flatten_state(state), {"counter": self.counter.state_dict()})

    def load(self, checkpoint: Checkpoint) -> None:
        """Goes on where a checkpoint stopped, on any number of ranks.

        Raises:
            InputError: the checkpoint does not fit this experiment.
        """
        with refused_where_unfit(checkpoint):
            self.restore(unflatten_state(checkpoint.tensors), checkpoint.metadata["counter"])

    def gather_state(self, communicator: Communicator | None = None) -> dict[str, Any]:
        """Every part's state, and under ``envs`` all ranks' copies. Collective.

        Args:
            communicator: gathers the copies, to wherever its ``gather_rows`` does; the experiment's own, which
                gathers them on rank 0, by default.
        """
        communicator = communicator or self.communicator
        envs = {name: _gather(communicator, part.env_state_dict()) for name, part in self._parts()}
        return {**{name: part.state_dict() for name, part in self._parts()}, "envs": envs}

    def restore(self, parts: Mapping[str, State], counts: Any) -> None:
        """Takes back what ``gather_state`` gave on any number of ranks, and the counter's state.

        Raises:
            KeyError, ValueError, RuntimeError, IndexError: something is missing or does not fit.
        """
        saved = unflatten_state(parts.get("envs", {}))
        envs = {len(tensor) for part in saved.values() for tensor in part.values()}
        if envs != {self.config.num_envs}:
            raise ValueError(f"it holds {max(envs, default=0)} environment copies, not {self.config.num_envs}")
        rows = slice(self.context.first_env, self.context.first_env + self.context.num_envs)
        for name, part in self._parts():
            part.load_state_dict(parts.get(name, {}))
            part.load_env_state_dict({key: value[rows] for key, value in saved.get(name, {}).items()})
        assert isinstance(counts, dict)
        self.counter.load_state_dict(counts)
        self.loop.begin(self.environment.current())
        self.resumed = True

    def close(self) -> None:
        """Closes the environment."""
        self.environment.close()

    def _parts(self) -> list[tuple[str, Saveable]]:
        return [
            ("environment", self.environment),
            ("learner", self.learner),
            ("dataset", self.dataset),
            ("adder", self.adder),
            ("actor", self.actor),
            ("tracker", self._tracker),
            ("statistics", self.statistics),
        ]


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


@contextlib.contextmanager
def refused_where_unfit(checkpoint: Checkpoint) -> Iterator[None]:
    """Turns what loading raises where a checkpoint does not fit into an InputError that names it."""
    try:
        yield
    except (KeyError, ValueError, RuntimeError, IndexError) as error:
        # Torch explains itself on many lines.
        reason = f"it has no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise InputError(f"{checkpoint.path} does not fit this experiment: {reason[:300]}") from error


def _gather(communicator: Communicator, state: State) -> State:
    """All copies' rows on rank 0; dimensions that differ between ranks are padded with zeros."""
    gathered: State = {}
    for name, tensor in sorted(state.items()):
        shape = torch.tensor(tensor.shape[1:], dtype=torch.int64)
        if shape.numel():
            communicator.all_reduce(shape, "max")
        gathered[name] = communicator.gather_rows(_pad(tensor.cpu(), shape.tolist()).contiguous())
    return gathered


def _pad(tensor: Tensor, shape: list[int]) -> Tensor:
    missing = [wanted - have for wanted, have in zip(shape, tensor.shape[1:], strict=True)]
    if not any(missing):
        return tensor
    return functional.pad(tensor, [amount for size in reversed(missing) for amount in (0, size)])
