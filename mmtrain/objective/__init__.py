"""LightningModules, one an objective: batch, model, loss, metrics."""
