"""The aggregator's console: what its operator sees and does in a browser on the aggregator's own machine."""
