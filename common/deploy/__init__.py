"""What processes of both sides need: supervision, TLS, provisioning files, logs."""
