"""Self play."""
