"""Serves client and server alike, and knows neither."""
