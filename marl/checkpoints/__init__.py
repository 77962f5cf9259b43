"""Checkpoints of runs, and frozen policies by their hash."""
