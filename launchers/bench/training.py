"""The speed of acting and learning: rollouts, training, and their scaling with ranks.

The reference is ``env.step`` of one unmodified environment with random actions, measured in turns with the value: turns
are short, so that a machine whose speed drifts favours neither.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch

from marl.core import Communicator
from marl.launchers.bench.measurements import Measurement, compare
from marl.launchers.run.choices import Backend

_NUM_PREPARED = 256


class RawEnvironment:
    """One unmodified environment, stepped with random legal actions; only its own time is counted.

    Args:
        name: a PettingZoo environment; see ``marl.envs.factory.make_factory``.
    """

    def __init__(self, name: str) -> None:
        from marl.envs.factory import make_constructor
        from marl.envs.pettingzoo.probe import RandomChoices, probe_environment

        self._environment = make_constructor(name)()
        probed = probe_environment(self._environment, with_state=False)
        self._turn_based = probed.turn_based
        self._choose = choose = RandomChoices(probed.readers, probed.writers)
        self._prepared: list[dict[str, Any]] = []
        if not probed.masks_in_info and not any(reader.masked for reader in probed.readers.values()):
            self._prepared = [
                {agent: choose(agent, None, None) for agent in probed.readers} for _ in range(_NUM_PREPARED)
            ]
        self._observed: Any = None
        self._steps = 0

    def rate(self, seconds: float) -> float:
        """Measures environment steps (or turns) a second, resets included, over about this number of seconds."""
        steps = self._steps
        advance = self._turn if self._turn_based else self._step
        spent, begin = 0.0, time.perf_counter()
        while spent == 0.0 or time.perf_counter() - begin < seconds:
            for _ in range(50):
                spent += advance()
        return (self._steps - steps) / spent

    def close(self) -> None:
        """Closes the environment."""
        self._environment.close()

    def _step(self) -> float:
        environment = self._environment
        spent = 0.0
        if not environment.agents or self._observed is None:
            begin = time.perf_counter()
            self._observed = environment.reset() if self._steps else environment.reset(seed=0)
            spent += time.perf_counter() - begin
        if self._prepared:
            actions = self._prepared[self._steps % _NUM_PREPARED]
            if len(environment.agents) != len(actions):
                actions = {agent: actions[agent] for agent in environment.agents}
        else:
            observations, infos = self._observed[0], self._observed[-1]
            actions = {agent: self._choose(agent, observations[agent], infos[agent]) for agent in environment.agents}
        begin = time.perf_counter()
        self._observed = environment.step(actions)
        self._steps += 1
        return spent + time.perf_counter() - begin

    def _turn(self) -> float:
        environment = self._environment
        begin = time.perf_counter()
        if not self._steps or not environment.agents:
            environment.reset(seed=None if self._steps else 0)
        observation, _, terminated, truncated, info = environment.last()
        spent = time.perf_counter() - begin
        agent = environment.agent_selection
        action = None
        if not terminated and not truncated:
            action = (
                self._prepared[self._steps % _NUM_PREPARED][agent]
                if self._prepared
                else self._choose(agent, observation, info)
            )
        begin = time.perf_counter()
        environment.step(action)
        self._steps += 1
        return spent + time.perf_counter() - begin


def rollout(env: str, num_envs: int, rounds: int, seconds: float, communicator: Communicator) -> Iterator[Measurement]:
    """Measures acting with 64x64 networks on unmodified environments, against ``env.step`` alone."""
    raw, experiment = RawEnvironment(env), _experiment(env, num_envs, communicator, epochs=1)
    experiment.loop.begin()
    values, references = [], []
    for turn in range(rounds + 1):
        reference = raw.rate(seconds) * communicator.size
        steps, begin = 0, time.perf_counter()
        while steps == 0 or time.perf_counter() - begin < seconds:
            experiment.loop.step()
            steps += num_envs
            if experiment.dataset.ready():
                experiment.dataset.sample()
        if turn:  # the first turn warms up
            values.append(steps / (time.perf_counter() - begin))
            references.append(reference)
    experiment.close()
    raw.close()
    yield compare(f"rollout/{env}", values, references, "env steps/s")


def train(env: str, num_envs: int, rounds: int, seconds: float, communicator: Communicator) -> Iterator[Measurement]:
    """Measures training of MAPPO (64x64 networks, 4 passes), against ``env.step`` on one core times the ranks."""
    raw = RawEnvironment(env)
    experiment = _experiment(env, num_envs, communicator, epochs=4, minibatches=1)
    experiment.loop.begin()
    values, references = [], []
    for turn in range(rounds + 1):
        # Rank 0 measures the reference while the others wait in the collective that follows.
        reference = torch.zeros(1, dtype=torch.float64)
        if communicator.rank == 0:
            reference += raw.rate(seconds) * communicator.size
        communicator.all_reduce(reference)
        steps, begin, learned = 0, time.perf_counter(), False
        while not learned:
            experiment.loop.step()
            steps += num_envs
            while experiment.dataset.ready():
                experiment.learner.step()
                learned = True
        if turn:
            values.append(steps / (time.perf_counter() - begin))
            references.append(float(reference))
    experiment.close()
    raw.close()
    yield compare(f"train/mappo/{env}/{communicator.size}-ranks", values, references, "env steps/s")


def train_batched(
    env: str,
    num_envs: int,
    rounds: int,
    communicator: Communicator,
    *,
    activation: Literal["tanh", "relu"] = "tanh",
    bfloat16: bool = False,
) -> Iterator[Measurement]:
    """Measures training of IPPO on the batched environment in JaxMARL's configuration, against its matrix products.

    Separate 64x64 actors and critics without normalisation, 128 steps, 4 epochs of 4 minibatches (FLAIROX/JaxMARL,
    baselines/IPPO). The reference does the products of a whole iteration of acting and learning on all ranks at once,
    always in float32.
    """
    from marl.launchers.bench.update import products_of, repeat_products

    settings = {"activation": activation}
    plain = _batched(env, num_envs, communicator, compile=False, **settings)
    fast = _batched(env, num_envs, communicator, compile=True, **settings, bfloat16=bfloat16)

    def iterate(experiment: Any) -> None:
        while not experiment.dataset.ready():
            experiment.loop.step()
        experiment.learner.step()

    for experiment in (plain, fast):
        experiment.loop.begin()
        iterate(experiment)  # allocates, compiles
    repeat = repeat_products(products_of(lambda: iterate(plain)).products)
    plain.close()
    steps = num_envs * fast.dataset.length
    values, references = [], []
    for turn in range(rounds + 1):
        times = []
        for work in (repeat, lambda: iterate(fast)):
            communicator.all_reduce(torch.zeros(1))  # all begin together
            begin = time.perf_counter()
            work()
            communicator.all_reduce(torch.zeros(1))
            times.append(time.perf_counter() - begin)
        if turn:
            references.append(steps / times[0])
            values.append(steps / times[1])
    fast.close()
    kind = f"{activation}-bfloat16" if bfloat16 else activation
    yield compare(f"train/ippo/{kind}/batched/{env}/{communicator.size}-ranks", values, references, "env steps/s")


def scaling(arguments: Sequence[str], ranks: int, rounds: int) -> Iterator[Measurement]:
    """Measures ``bench train`` on several ranks, against one rank of the same work on one core.

    Args:
        arguments: of ``marl bench train``, without ranks and rounds.
        ranks: the largest number of ranks; powers of two up to it are measured.
        rounds: the number of turns.
    """
    sizes = [1 << power for power in range(1, ranks.bit_length()) if 1 << power <= ranks]
    rates: dict[int, list[float]] = {size: [] for size in (1, *sizes)}
    for _ in range(rounds):
        for size, measured in rates.items():
            command = [sys.executable, "-m", "marl.launchers.main", "bench", "train", "--ranks", str(size), *arguments]
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
            measured.append(json.loads(done.stdout.splitlines()[-1])["value"])
    for size in sizes:
        yield compare(f"scaling/{size}-ranks", rates[size], rates[1], "env steps/s")


def _batched(env: str, num_envs: int, communicator: Communicator, *, compile: bool, **settings: Any) -> Any:
    return _experiment(
        env,
        num_envs,
        communicator,
        backend="batched",
        compile=compile,
        **settings,
        centralized_critic=False,
        input_normalization="none",
        hidden_layer_norm=False,
        rollout_length=128,
        epochs=4,
        minibatches=4,
        huber_delta=None,
        value_normalization="none",
        learning_rate=2.5e-3,
        anneal_learning_rate=True,
        max_gradient_norm=0.5,
        value_coef=0.5,
    )


def _experiment(
    env: str,
    num_envs: int,
    communicator: Communicator,
    *,
    backend: Backend = "pettingzoo",
    compile: bool = True,
    **settings: Any,
) -> Any:
    """Makes an experiment of MAPPO with these settings; compiled if that is possible, as in ``marl train``."""
    from marl.algorithms.mappo import MAPPO, MAPPOConfig
    from marl.envs.factory import make_factory
    from marl.experiments.config import ExperimentConfig
    from marl.experiments.experiment import Experiment
    from marl.learning.compilation import can_compile

    builder = MAPPO(config=MAPPOConfig(**settings), compile=compile and can_compile(torch.device("cpu")))
    environment = make_factory(env, backend=backend)
    return Experiment(ExperimentConfig(builder=builder, environment=environment, num_envs=num_envs), communicator)
