# cython: language_level=3
"""The counters' names, as Python sees them."""
