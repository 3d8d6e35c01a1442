"""Two-tower deep models."""
