"""Runs on disk and what describes them: settings, the catalogue of algorithms, recipes, and trained policies."""
