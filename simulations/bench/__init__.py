"""Figures that the README and CHANGELOG quote, each a function that measures and returns a dictionary.

Comparisons run side by side in one process or in two fresh ones, never against a number from somewhere else.
"""
