"""Measures finished platforms on what no agent has seen."""
