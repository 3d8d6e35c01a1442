"""Accounts for, makes and post-processes differentially private releases."""
