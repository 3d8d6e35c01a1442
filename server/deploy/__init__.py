"""The aggregator's processes: Flower, admission, runs, schedule, doctor."""
