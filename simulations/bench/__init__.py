"""Benchmarks as plain functions that return dicts."""
