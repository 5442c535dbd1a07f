"""Makes the modules of this folder, such as ``clip_toys``, importable from the tests in folders below."""
