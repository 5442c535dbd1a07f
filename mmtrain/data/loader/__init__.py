"""From a plan to batches: making them in threads or processes, carrying them over, and keeping the position."""
