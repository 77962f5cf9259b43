"""Leagues: players that learn by playing each other and their past selves."""
