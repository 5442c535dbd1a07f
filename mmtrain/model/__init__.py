"""Models, and their weights' exchange with other libraries. Free of Lightning."""
