"""On policy."""
