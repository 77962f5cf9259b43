"""Adders: from time steps to the items of replay, or to rollouts."""
