"""Concludes the audit: exact and statistical checks, and how far two worlds can be told apart."""
