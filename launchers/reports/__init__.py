"""Reports on runs: learning curves, videos, and experiment trackers."""
