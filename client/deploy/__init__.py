"""A platform's processes: join, keys, agent, SuperNode, doctor, backups."""
