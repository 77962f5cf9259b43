"""``marl tournament``."""
