"""Logs whose entries nobody can edit, insert or remove unnoticed."""
