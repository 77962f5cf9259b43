"""Environments, made by name, adapted and batched."""
