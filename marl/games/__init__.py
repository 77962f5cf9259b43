"""Games between players: sides, schedules, players, and batches of games that are played side by side."""
