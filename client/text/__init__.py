"""Texts as vectors: frozen sentence encoders, a cache of what they said, whitening. Needs ``crossfed[text]``."""
