"""Runs a federation on one machine."""
