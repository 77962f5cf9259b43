"""Rows of metrics for tests of loggers."""


def row(updates):
    return {"env_steps": 100 * updates, "updates": updates, "episode_return/mean": -40.0 - updates}
