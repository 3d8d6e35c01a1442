"""Scenarios: what a simulation is described by, and those that ship."""
