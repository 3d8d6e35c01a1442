"""Versions of a model: which there are and which serves, two of them side by side, and what came of it."""
