"""Options of commands: dataclasses, read from a command line and explained."""
