"""Trains BenchMARL on simple_spread (IPPO on VMAS, MAPPO on PettingZoo) and prints environment steps a second.

python benchmarl_training.py pettingzoo|vmas ENVS LENGTH SECONDS, in an environment that has BenchMARL.
"""

import contextlib
import itertools
import json
import statistics
import sys
import tempfile
import time

from benchmarl.algorithms import IppoConfig, MappoConfig
from benchmarl.environments import PettingZooTask, VmasTask
from benchmarl.experiment import Experiment, ExperimentConfig
from benchmarl.experiment.callback import Callback
from benchmarl.models.mlp import MlpConfig
from torch import nn

WARM_UP = 2
"""Iterations that do not count."""


class Clock(Callback):
    """Times iterations, each of which collects, learns and ends here; stops the experiment when time is up."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.ends: list[float] = []
        self._seconds = seconds

    def on_batch_collected(self, batch) -> None:
        self.ends.append(time.perf_counter())
        if len(self.ends) > WARM_UP + 2 and self.ends[-1] - self.ends[0] > self._seconds:
            raise TimeoutError


def main() -> None:
    suite, envs, length, seconds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
    config = ExperimentConfig.get_from_yaml()
    frames = envs * length
    config.on_policy_n_envs_per_worker = envs
    config.on_policy_collected_frames_per_batch = frames
    config.on_policy_n_minibatch_iters = 4  # epochs
    config.on_policy_minibatch_size = frames // 4
    config.prefer_continuous_actions = False
    config.max_n_frames = 1_000_000_000
    config.loggers, config.create_json, config.evaluation, config.render = [], False, False, False
    if suite == "vmas":
        task, algorithm = VmasTask.SIMPLE_SPREAD.get_from_yaml(), IppoConfig.get_from_yaml()
    else:
        task, algorithm = PettingZooTask.SIMPLE_SPREAD.get_from_yaml(), MappoConfig.get_from_yaml()
    networks = MlpConfig(num_cells=[64, 64], activation_class=nn.Tanh, layer_class=nn.Linear)
    clock = Clock(seconds)
    config.save_folder = tempfile.mkdtemp()
    experiment = Experiment(
        task=task,
        algorithm_config=algorithm,
        model_config=networks,
        critic_model_config=networks,
        seed=0,
        config=config,
        callbacks=[clock],
    )
    with contextlib.suppress(TimeoutError):
        experiment.run()
    times = [later - earlier for earlier, later in itertools.pairwise(clock.ends[WARM_UP:])]
    print(json.dumps({"rate": frames / statistics.median(times)}))


main()
