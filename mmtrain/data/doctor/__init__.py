"""How fast the data plane of a config is on this machine, what bounds it, and how shards and lanes fall on ranks."""
