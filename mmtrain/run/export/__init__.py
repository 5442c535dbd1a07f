"""A run's model as a folder that other libraries load."""
