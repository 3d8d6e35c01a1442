"""Measures the privacy of the code that ships: canaries, noise, bookkeeping, membership inference."""
