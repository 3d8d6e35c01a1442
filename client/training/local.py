"""What a platform trains for itself alone: a local model, and one anchored to the shared item factors."""
