"""Figures about how a plan's model is chosen, and the table for private plans."""
