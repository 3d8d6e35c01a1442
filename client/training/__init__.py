"""Trains a platform's factors: alternating least squares, tuning, anchored and content models."""
