"""Supervision of jobs: heartbeats, watchdogs, diagnosis of hangs, and restarts."""
