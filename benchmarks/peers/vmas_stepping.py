"""Steps VMAS's simple_spread with random actions, and prints the median of environment steps a second.

python vmas_stepping.py ENVS SECONDS, in an environment that has VMAS.
"""

import sys
import time

import torch
from timing import print_median_rate
from vmas import make_env

LENGTH = 25


def main() -> None:
    envs, seconds = int(sys.argv[1]), float(sys.argv[2])
    environment = make_env("simple_spread", num_envs=envs, device="cpu", continuous_actions=False, seed=0)

    def rate():
        environment.reset()
        actions = torch.randint(0, 5, (LENGTH, len(environment.agents), envs, 1))
        began = time.perf_counter()
        for now in actions:
            environment.step(list(now))
        return LENGTH * envs / (time.perf_counter() - began)

    print_median_rate(rate, seconds)


main()
