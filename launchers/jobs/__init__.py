"""Jobs of several ranks: starting mpirun, forwarding signals, and ending every process."""
