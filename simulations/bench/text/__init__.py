"""Measures what texts bring: ``python -m simulations.bench.text DATA``."""
