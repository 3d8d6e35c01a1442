"""Scorers of items and how they are put together and measured."""
