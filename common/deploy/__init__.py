"""Serves the processes of both sides: supervision, TLS, provisioning files, logs."""
