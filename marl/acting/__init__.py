"""Acting: actors, the environment loop, statistics of episodes, evaluation, random actions."""
