"""A platform's console: what its operator sees and does in a browser on the platform's own machine."""
