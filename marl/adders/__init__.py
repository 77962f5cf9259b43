"""Adders."""
