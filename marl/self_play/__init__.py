"""Self-play: a learner on one side of a game, players that do not learn on the others."""
