"""Kinds of contribution as both sides of the wire know them."""
