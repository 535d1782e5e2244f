"""The switches' names, as Python sees them."""
