"""The counters' names, as Python sees them."""
