"""Measures what applications and operators wait for: HTTP beside gRPC, lists for everybody beside implicit."""
