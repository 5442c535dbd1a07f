"""The loaders that `benchmarks/data.py` compares: one module each, run in a process and an environment of its own."""
