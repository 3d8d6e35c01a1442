"""One federation's protocol state: handshake, collection, checkpoints."""
