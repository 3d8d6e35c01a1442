"""Answers what a person may ask of a platform: what is held of them, that it be erased, that it be used no more."""
