"""The commands of ``crossfed-simulate``."""
