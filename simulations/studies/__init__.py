"""Sweeps, tuning, maps: many runs for one answer."""
