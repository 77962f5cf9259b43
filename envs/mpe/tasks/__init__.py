"""The nine tasks of mpe2, one a file."""
