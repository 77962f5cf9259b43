"""Ratings and rankings of players from their games: Elo and its kin, sequential tests, equilibria of payoff tables."""
