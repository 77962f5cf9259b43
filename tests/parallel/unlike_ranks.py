"""Ranks of a training job that were not started alike; ``test_unlike_ranks.py`` checks how the job ends."""

import os
import sys

from marl.launchers.main import main

if __name__ == "__main__":
    run, *options = sys.argv[1:]
    last = int(os.environ["OMPI_COMM_WORLD_RANK"]) == int(os.environ["OMPI_COMM_WORLD_SIZE"]) - 1
    argv = ["train", "ippo", "mpe2.simple_spread_v3", "--recipe", "none", "--num-envs", "4", "--steps", "400"]
    sys.exit(main([*argv, "--out", run, *(options if last else [])]))
