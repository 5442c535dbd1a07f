"""A run: its directory, its checkpoints, its data in Lightning's terms, and its summary."""
