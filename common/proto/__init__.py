"""Holds the messages of gRPC, generated from ``.proto`` files, and their conversion."""
