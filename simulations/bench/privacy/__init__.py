"""Measures what privacy costs: quality by ε, what a private federation gives its platforms, and the secure sum."""
