"""Algorithms, one file a family; each is a Builder that any experiment can use."""
