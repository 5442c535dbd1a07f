"""Lightning callbacks. Each file is one concern; none imports another package of its floor."""
