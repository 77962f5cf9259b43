"""Precautions at the border between marl and environments that others wrote."""
