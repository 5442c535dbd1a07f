"""Parts of the crash matrix."""
