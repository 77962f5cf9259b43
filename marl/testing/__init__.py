"""Conformance checks of environments and algorithms, with fakes to run them on."""
