"""What is on disk: tar shards, their sidecar indexes, and the manifest of a data set."""
