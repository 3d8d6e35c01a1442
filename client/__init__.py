"""A platform's own side of a federation."""

import os

# Small matrices, many of them: threads inside each product only wait for one another. Read when NumPy is first imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
