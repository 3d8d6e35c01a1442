"""How all parties of a federation agree: the roster that everybody compares, and the steps that are left."""
