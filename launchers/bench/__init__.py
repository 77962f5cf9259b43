"""Benchmarks of ``marl bench``."""
