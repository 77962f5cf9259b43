"""Checkpoints of runs, frozen policies by their hash, and the names of nested states."""
