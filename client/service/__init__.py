"""gRPC services of a platform and their client."""
