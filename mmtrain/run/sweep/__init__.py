"""Many runs from one command: which, where they stand, how they run here or on a cluster, and how a search asks."""
