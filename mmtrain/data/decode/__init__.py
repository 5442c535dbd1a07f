"""From a sample's bytes to arrays: images, augmentation, tokens."""
