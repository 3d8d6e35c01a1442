"""A platform's users in shards on disk, and sums over them on a cluster of machines."""
