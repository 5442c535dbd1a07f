"""Parts of `benchmarks/scale.py`: what ranks measure, what theory says, and how both are shown."""
