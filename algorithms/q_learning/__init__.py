"""Q learning."""
