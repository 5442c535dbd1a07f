"""Building blocks: the Transformer, losses and measures as functions of tensors. Free of Lightning."""
