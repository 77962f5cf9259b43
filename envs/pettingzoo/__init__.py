"""PettingZoo environments, Parallel and AEC, as vector environments and as games to be played."""
