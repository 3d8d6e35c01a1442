"""The platform that is audited: its files, plan and agent, an aggregator by hand, and the faults to inject."""
