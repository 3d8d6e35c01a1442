"""Small worked examples on the library's own interface; each runs with ``python -m simulations.examples.NAME``."""
