"""Actor critic."""
