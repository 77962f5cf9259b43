"""``marl train`` and ``marl league``: from a command line to a run directory, on one or many ranks."""
