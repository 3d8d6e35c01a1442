"""The audit of the path from files to bytes: what one person changes in what leaves, its noise, and crafted requests."""
