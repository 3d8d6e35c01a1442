"""Simulate a whole federation on one machine."""

import os

# Read by gRPC when it is first imported: Ray forks while agents serve their sockets, and gRPC would log every fork.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
# Small matrices, many of them: threads inside each product only wait for one another. Read when NumPy is first imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
