"""From the number of a sample to its bytes, verified, wherever the shards lie."""
