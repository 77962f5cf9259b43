"""Runs: settings, run directories, and what they hold once trained."""
