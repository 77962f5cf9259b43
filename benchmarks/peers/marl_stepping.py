"""Steps our batched simple_spread with random actions, and prints the median of environment steps a second.

python marl_stepping.py ENVS SECONDS
"""

import sys
import time

import torch
from timing import print_median_rate

from marl.core import EnvironmentRequest
from marl.envs.factory import make_factory

LENGTH = 100


def main() -> None:
    envs, seconds = int(sys.argv[1]), float(sys.argv[2])
    torch.set_num_threads(1)
    environment = make_factory("mpe2.simple_spread_v3", backend="batched")(EnvironmentRequest(num_envs=envs))
    environment.reset()
    [group] = environment.spec.groups

    def rate() -> float:
        actions = torch.randint(0, 5, (LENGTH, envs, group.size))
        began = time.perf_counter()
        for now in actions:
            environment.step({group.name: now})
        return LENGTH * envs / (time.perf_counter() - began)

    print_median_rate(rate, seconds)


main()
