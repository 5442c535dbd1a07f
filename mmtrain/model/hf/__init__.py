"""Weights and configs to and from Hugging Face: one file a model family."""
