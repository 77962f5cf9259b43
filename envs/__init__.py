"""Environments: how they are made by name, adapted and batched."""
