"""A platform on a cluster: what it takes at one, ten and a hundred million interactions."""
