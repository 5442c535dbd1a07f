"""Anyone's data into standard WebDataset shards: images with captions or labels, and tokenised text.

A shard is a pure function of the inputs and the options: any number of workers writes the same bytes, and a pack that
was killed goes on where it stopped. ``images.pack_images`` and ``text.pack_text`` are the entrances.
"""
