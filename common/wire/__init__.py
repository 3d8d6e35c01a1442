"""Messages between aggregator and platforms: contract, exchange, serialisation."""
