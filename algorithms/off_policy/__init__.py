"""Off policy."""
