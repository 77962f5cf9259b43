"""Experiments: parts are put together, trained in a loop, evaluated and saved."""
