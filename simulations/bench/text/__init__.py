"""What texts bring: ``python -m simulations.bench.text DATA``."""
