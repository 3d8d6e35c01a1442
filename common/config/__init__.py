"""Configuration: YAML files into frozen models, checked once, at the edge."""
