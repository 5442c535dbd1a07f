"""Where the numbers go: ``metrics.jsonl`` always, W&B or TensorBoard on request."""
