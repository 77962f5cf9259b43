"""Resources of a process: memory, standard streams, and environments and loggers that must be closed."""
