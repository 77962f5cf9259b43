"""Processes: the marl command, MPI, tournaments. Everything that touches the outside world."""
