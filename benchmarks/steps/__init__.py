"""One training step of each model, mmtrain's and its peers'."""
